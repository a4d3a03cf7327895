"""How metrics and gates are asked for in words: `bleu:tokenize=zh,lowercase=true`, `bleu>=baseline-0.5`.

Light: builds nothing. Gates fail closed.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmctl import registry
from llmctl.config import Spec, parse_yaml, validate
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.metrics.spec import MetricSpec
from llmctl.registry import near
from llmctl.types import Score

_EXAMPLE: Final = "write bleu, or with options bleu:tokenize=zh,lowercase=true"
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GATE: Final = re.compile(r"\s*(?P<score>[A-Za-z][\w.-]*)\s*(?P<compare>[<>=!~]+)\s*(?P<bound>.*?)\s*", re.DOTALL)
_BASELINE: Final = re.compile(rf"baseline(?:\s*(?P<change>[-+*])\s*(?P<by>{_NUMBER}))?")
_EXAMPLES: Final = "write 'bleu>=20', 'ter<=60' or 'bleu>=baseline-0.5'"
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


def parse_score(text: str) -> tuple[MetricSpec, Spec, str]:
    """As `parse_metric`, with the one score that is meant: `rougeL` is a score of `rouge`; a metric's name means its
    chief one."""
    name, colon, settings = text.strip().partition(":")
    for entry in registry.entries("metrics"):
        spec: MetricSpec = registry.load("metrics", entry.name)
        if name.strip() in spec.scores:
            return *parse_metric(f"{spec.name}{colon}{settings}"), name.strip()
    spec, options = parse_metric(text)
    return spec, options, spec.chief or spec.scores[0]


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
# Gates


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether a gate was met, and why not. `value` is None where there is no such score."""

    require: str
    met: bool
    value: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Gate:
    """`score compare bound`, where bound is `factor * baseline + offset`: a plain number has factor 0."""

    require: str
    score: str
    compare: str
    factor: float
    offset: float

    @property
    def relative(self) -> bool:
        """Whether it needs the scores of a baseline."""
        return bool(self.factor)

    def check(self, scores: Sequence[Score], baseline_scores: Sequence[Score] | None = None) -> GateResult:
        """Met only where every score of that name is there, finite, comparable and within the bound."""
        found = [score for score in scores if score.metric == self.score]
        if not found:
            return GateResult(self.require, False, None, f"there is no score {self.score}")
        results = [self._check_one(score, baseline_scores) for score in found]
        return next((result for result in results if not result.met), results[0])

    def _check_one(self, score: Score, baseline_scores: Sequence[Score] | None) -> GateResult:
        bound, obstacle = self._bound(score, baseline_scores)
        if not math.isfinite(score.value):
            obstacle = f"{self.score} is {score.value}, not a finite number"
        elif not score.n:
            obstacle = f"{self.score} was computed on no rows"
        if obstacle:
            return GateResult(self.require, False, score.value, obstacle)
        met = _COMPARE[self.compare](score.value, bound)
        value_text, bound_text = _apart(score.value, bound)
        must = "" if met else "not "
        return GateResult(
            self.require, met, score.value, f"{self.score} is {value_text}, {must}{self.compare} {bound_text}"
        )

    def _bound(self, score: Score, baseline_scores: Sequence[Score] | None) -> tuple[float, str]:
        """The number to reach, and what stands in the way of comparing."""
        if not self.relative:
            return self.offset, ""
        if baseline_scores is None:
            return math.nan, "there is no baseline to compare with"
        named = [each for each in baseline_scores if each.metric == self.score]
        if not named:
            return math.nan, f"the baseline has no score {self.score}"
        alike = [each for each in named if each.signature == score.signature]
        if not alike:
            return math.nan, f"not comparable: {score.signature}, the baseline's is {named[0].signature}"
        baseline = alike[0]
        if baseline.n != score.n:
            return math.nan, f"not comparable: {score.n} rows, the baseline has {baseline.n}"
        if not math.isfinite(baseline.value):
            return math.nan, f"the baseline's {self.score} is {baseline.value}, not a finite number"
        return self.factor * baseline.value + self.offset, ""


def parse_gate(text: str) -> Gate:
    """A gate as a person writes it. Raises `UsageError`."""
    parts = _GATE.fullmatch(text)
    if not parts:
        raise UsageError(f"{text!r} is not a gate", hint=_EXAMPLES)
    score, compare, bound = parts["score"], parts["compare"], parts["bound"]
    require = f"{score}{compare}{bound}"
    if compare in ("=", "==", "!="):
        raise UsageError(
            f"a gate cannot ask for {compare!r} in {text!r}: a score is a measured number, and its last digits are chance",
            hint=f"ask for a bound: {score}>={bound or '20'}",
        )
    if compare not in _COMPARE:
        raise UsageError(f"no such comparison {compare!r} in {text!r}", hint=f"comparisons: {', '.join(_COMPARE)}")
    if re.fullmatch(_NUMBER, bound) and math.isfinite(float(bound)):
        return Gate(require, score, compare, 0.0, float(bound))
    relative = _BASELINE.fullmatch(bound)
    by = float(relative["by"]) if relative and relative["by"] else 0.0
    if not relative or not math.isfinite(by):
        raise UsageError(f"{bound!r} in {text!r} is neither a number nor a baseline", hint=_EXAMPLES)
    if relative["change"] == "*":
        if by <= 0:
            raise UsageError(f"{text!r} multiplies the baseline by {by:g}", hint="write a factor above 0")
        return Gate(require, score, compare, by, 0.0)
    return Gate(require, score, compare, 1.0, -by if relative["change"] == "-" else by)


def check_gates(gates: Sequence[Gate], metric_specs: Sequence[MetricSpec], *, baseline: bool = False) -> None:
    """Refuse, before any work, a gate that no score can ever meet. Raises `UsageError`.

    `baseline` says whether there is one to compare with.
    """
    specs = {name: spec for spec in metric_specs for name in spec.scores}
    for gate in gates:
        if gate.score not in specs:
            raise UsageError(
                f"the gate {gate.require!r} needs the score {gate.score!r}, which none of the metrics gives",
                hint=near(gate.score, specs) or f"scores: {', '.join(specs) or 'none'}; add the metric with --metric",
            )
        if gate.relative and not baseline:
            raise UsageError(f"the gate {gate.require!r} compares with a baseline, and none is given")
        low, high = _RANGES.get(specs[gate.score].scale, (-math.inf, math.inf))
        compare = _COMPARE[gate.compare]
        if not gate.relative and not (compare(low, gate.offset) or compare(high, gate.offset)):
            raise UsageError(
                f"the gate {gate.require!r} can never be met: {gate.score} goes from {low:g} to {high:g}",
                hint=f"write a bound between {low:g} and {high:g}",
            )


def _apart(value: float, bound: float) -> tuple[str, str]:
    """Both numbers with six digits, or as many as it takes to tell them apart."""
    for digits in range(6, 17):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if texts[0] != texts[1] or value == bound:
            return texts
    return repr(value), repr(bound)
