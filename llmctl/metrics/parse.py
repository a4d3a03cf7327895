"""How metrics are asked for in words: `bleu:tokenize=zh,lowercase=true`; which gates their scores can meet.

Light: builds nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmctl import registry
from llmctl.config import Spec, validate
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.gates import Gate
from llmctl.metrics.spec import MetricSpec
from llmctl.recipes import parse_yaml
from llmctl.registry import near

_EXAMPLE: Final = "write bleu, or with options bleu:tokenize=zh,lowercase=true"
_RANGES: Final[Mapping[str, tuple[float, float]]] = {"0-1": (0, 1), "0-100": (0, 100)}
"""What values of a scale are possible."""


def parse_metric(text: str) -> tuple[MetricSpec, Spec]:
    """`NAME[:KEY=VALUE,…]`, values as in YAML. Raises `UsageError` or `ConfigError`, with the nearest spelling."""
    name, colon, settings = text.strip().partition(":")
    spec = _find(name.strip())
    block: dict[str, Any] = {}
    for setting in settings.split(",") if colon else ():
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (key and equals and value):
            raise UsageError(f"{setting.strip()!r} in {text!r} is not KEY=VALUE", hint=_EXAMPLE)
        if key in block:
            raise ConfigError([Fault(f"metric.{spec.name}.{key}", "stands twice")])
        block[key] = parse_yaml(value, f"metric.{spec.name}.{key}")
    return spec, validate(spec.options, block, prefix=f"metric.{spec.name}.")


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """A metric as the user asked for it, parsed; as text it is what was written."""

    text: str
    spec: MetricSpec
    options: Spec
    score: str
    """The one of its scores that is meant where one is wanted."""

    def __str__(self) -> str:
        return self.text


def request_metric(text: str) -> MetricRequest:
    """As `parse_metric`; a metric's name means its chief score."""
    spec, options = parse_metric(text)
    return MetricRequest(text, spec, options, spec.primary or spec.scores[0])


def request_score(text: str) -> MetricRequest:
    """As `request_metric`, by a score too: `rougeL` is a score of `rouge`."""
    name, colon, settings = text.strip().partition(":")
    for entry in registry.entries("metrics"):
        spec: MetricSpec = registry.load("metrics", entry.name)
        if name.strip() in spec.scores:
            return MetricRequest(text, *parse_metric(f"{spec.name}{colon}{settings}"), name.strip())
    return request_metric(text)


def label(spec: MetricSpec, options: Spec) -> str:
    """The metric as it is asked for: its name, and every option that is not the default."""
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
                    f"{name!r} is a score, not a metric", hint=f"ask for the metric that gives it: {entry.name}"
                ) from None
        raise
    return found


# ---------------------------------------------------------------------------------------------------------------
# Gates on scores


def check_gates(gates: Sequence[Gate], metric_specs: Sequence[MetricSpec], *, baseline: bool = False) -> None:
    """Refuse, before any work, a gate that no score can ever meet. Raises `UsageError`.

    `baseline` says whether there is one to compare with.
    """
    specs = {name: spec for spec in metric_specs for name in spec.scores}
    for gate in gates:
        if gate.name not in specs:
            raise UsageError(
                f"the gate {gate.require!r} needs the score {gate.name!r}, which none of the metrics gives",
                hint=near(gate.name, specs) or f"scores: {', '.join(specs) or 'none'}; add the metric with --metric",
            )
        if gate.relative and not baseline:
            raise UsageError(f"the gate {gate.require!r} compares with a baseline, and none is given")
        low, high = _RANGES.get(specs[gate.name].scale, (-math.inf, math.inf))
        if not gate.possible(low, high):
            raise UsageError(
                f"the gate {gate.require!r} can never be met: {gate.name} goes from {low:g} to {high:g}",
                hint=f"write a bound between {low:g} and {high:g}",
            )
