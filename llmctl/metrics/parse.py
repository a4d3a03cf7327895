"""Parsing of metric requests such as `bleu:tokenize=zh,lowercase=true`, and a check of gates against their scores.

Light: does not build any metric.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from llmctl import registry
from llmctl.config import Spec, validate
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.gates import Gate, parse_gate
from llmctl.metrics.spec import MetricSpec
from llmctl.recipes import parse_yaml
from llmctl.registry import near

_EXAMPLE: Final = "write bleu, or with options bleu:tokenize=zh,lowercase=true"
_RANGES: Final[Mapping[str, tuple[float, float]]] = {"0-1": (0, 1), "0-100": (0, 100)}
"""Possible values of each bounded scale."""


def parse_metric(text: str) -> tuple[MetricSpec, Spec]:
    """`NAME[:KEY=VALUE,…]`, values as in YAML. Raises `UsageError` or `ConfigError` with the nearest spelling."""
    name, colon, settings = text.strip().partition(":")
    if "," in name:
        each = " ".join(f"--metric {word.strip()}" for word in text.split(","))
        raise UsageError(f"{text!r} names several metrics", hint=f"name each by itself: {each}")
    spec = _find(name.strip())
    block: dict[str, Any] = {}
    for setting in settings.split(",") if colon else ():
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (key and equals and value):
            raise UsageError(f"{setting.strip()!r} in {text!r} is not KEY=VALUE", hint=_EXAMPLE)
        if key in block:
            raise ConfigError([Fault(f"metric.{spec.name}.{key}", "is set twice")])
        block[key] = parse_yaml(value, f"metric.{spec.name}.{key}")
    return spec, validate(spec.options, block, prefix=f"metric.{spec.name}.")


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """A parsed metric request; `str()` returns the text the user wrote."""

    text: str
    spec: MetricSpec
    options: Spec
    score: str
    """The score to use where only one is needed."""

    def __str__(self) -> str:
        return self.text


def request_metric(text: str) -> MetricRequest:
    """Like `parse_metric`; the request's score is the metric's primary score."""
    spec, options = parse_metric(text)
    return MetricRequest(text, spec, options, spec.primary or spec.scores[0])


def request_score(text: str) -> MetricRequest:
    """Like `request_metric`, but also accepts the name of a score: `rougeL` is a score of `rouge`."""
    name, colon, settings = text.strip().partition(":")
    for entry in registry.entries("metrics"):
        spec: MetricSpec = registry.load("metrics", entry.name)
        if name.strip() in spec.scores:
            return MetricRequest(text, *parse_metric(f"{spec.name}{colon}{settings}"), name.strip())
    return request_metric(text)


def label(spec: MetricSpec, options: Spec) -> str:
    """The text that requests this metric: its name and every non-default option."""
    changed = options.model_dump(exclude_defaults=True)
    settings = ",".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()
    )
    return f"{spec.name}:{settings}" if settings else spec.name


def _find(name: str) -> MetricSpec:
    try:
        found: MetricSpec = registry.load("metrics", name)
    except UsageError:
        for entry in registry.entries("metrics"):
            if entry.owner == registry.OWNER and name in registry.load("metrics", entry.name).scores:
                raise UsageError(
                    f"{name!r} is a score, not a metric", hint=f"request the metric that computes it: {entry.name}"
                ) from None
        raise
    return found


# ---------------------------------------------------------------------------------------------------------------
# Gates on scores


def request_gate(text: str) -> Gate:
    """A gate on a score, whose name may be written as a metric's: `BLEU>=20`, `em>=0.5`. Raises `UsageError`."""
    gate = parse_gate(text)
    specs: list[MetricSpec] = [registry.load("metrics", entry.name) for entry in registry.entries("metrics")]
    names = [name for spec in specs for name in spec.scores]
    if gate.name in names:
        return gate
    same = [name for name in names if name.lower() == gate.name.lower()]
    with contextlib.suppress(UsageError):
        spec: MetricSpec = registry.load("metrics", gate.name)
        same = same or [spec.primary or spec.scores[0]]
    return replace(gate, name=same[0]) if same else gate


def check_gates(gates: Sequence[Gate], metric_specs: Sequence[MetricSpec], *, baseline: bool = False) -> None:
    """Raise `UsageError`, before any work, for a gate that no score can meet. `baseline`: whether there is one."""
    specs = {name: spec for spec in metric_specs for name in spec.scores}
    for gate in gates:
        if gate.name not in specs:
            raise UsageError(
                f"the gate {gate.require!r} needs the score {gate.name!r}, which none of the metrics computes",
                hint=near(gate.name, specs) or f"scores: {', '.join(specs) or 'none'}; add the metric with --metric",
            )
        if gate.relative and not baseline:
            raise UsageError(f"the gate {gate.require!r} needs a baseline, and there is none")
        low, high = _RANGES.get(specs[gate.name].scale, (-math.inf, math.inf))
        if not gate.possible(low, high):
            raise UsageError(
                f"the gate {gate.require!r} can never be met: {gate.name} ranges from {low:g} to {high:g}",
                hint=f"use a bound between {low:g} and {high:g}",
            )
