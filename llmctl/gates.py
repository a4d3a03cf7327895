"""Gates: bounds on named numbers, `bleu>=20`, `kept>=0.9`, `pii==0`, also relative to a baseline, `bleu>=baseline-0.5`.

Gates fail closed: a number that is missing, not finite, computed on zero rows or not comparable with its baseline fails.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmctl.errors import UsageError
from llmctl.types import Score

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_TOLERANCE: Final = 1e-9
"""Relative: numbers closer than this are equal, because the last bits of a score depend on the order of summation."""
_BOUNDS: Final = (">=", "<=", ">", "<")
"""Comparisons for measured scores; exact numbers also allow `==`."""
_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GATE: Final = re.compile(r"\s*(?P<name>[A-Za-z][\w.-]*)\s*(?P<compare>[<>=!~]+)\s*(?P<bound>.*?)\s*", re.DOTALL)
_BASELINE: Final = re.compile(rf"baseline(?:\s*(?P<change>[-+*])\s*(?P<by>{_NUMBER}))?")
_EXAMPLES: Final = "write 'bleu>=20', 'ter<=60' or 'bleu>=baseline-0.5'"
_EXACT_EXAMPLES: Final = "write 'kept>=0.9', 'pii==0' or 'kept>=baseline-0.01'"


@dataclass(frozen=True, slots=True)
class Number:
    """A number that gates can refer to by name: a score, a count or a fraction."""

    name: str
    value: float
    n: int | None = None
    """Rows it was computed on; None where that does not apply, as for counts. A baseline must have the same `n`."""
    signature: str = ""
    """Must equal the baseline's for the two numbers to be comparable."""


def of_scores(scores: Iterable[Score]) -> list[Number]:
    return [Number(score.metric, score.value, score.n, score.signature) for score in scores]


def of_counts(counts: Mapping[str, float]) -> list[Number]:
    """Make gate numbers from counts and fractions, by name."""
    return [Number(name, value) for name, value in counts.items()]


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether a gate was met, and why. `value` is None if there is no such number."""

    require: str
    met: bool
    value: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Gate:
    """`name compare bound`, where bound is `factor * baseline + offset`; a plain number has factor 0."""

    text: str
    """The gate as the user wrote it."""
    require: str
    """The gate as reported, without spaces around the comparison."""
    name: str
    compare: str
    factor: float
    offset: float
    exact: bool = False
    """For counts and fractions, which may be tested for equality; measured scores may not."""

    def __str__(self) -> str:
        return self.text

    @property
    def relative(self) -> bool:
        """Whether the bound depends on a baseline."""
        return bool(self.factor)

    def possible(self, low: float, high: float) -> bool:
        """Whether any number in [`low`, `high`] can meet the gate; always True for a relative gate."""
        if self.relative:
            return True
        if self.compare == "==":
            return low <= self.offset <= high
        compare = _COMPARE[self.compare]
        return compare(low, self.offset) or compare(high, self.offset)

    def check(self, numbers: Sequence[Number], baseline: Sequence[Number] | None = None) -> GateResult:
        """Check the gate: every number of that name must be finite, comparable and within the bound."""
        found = [number for number in numbers if number.name == self.name]
        if not found:
            return GateResult(self.require, False, None, f"there is no {self._noun} {self.name}")
        results = [self._check_one(number, baseline) for number in found]
        return next((result for result in results if not result.met), results[0])

    def _check_one(self, number: Number, baseline: Sequence[Number] | None) -> GateResult:
        bound, obstacle = self._bound(number, baseline)
        if not math.isfinite(number.value):
            obstacle = f"{self.name} is {number.value}, not a finite number"
        elif number.n == 0:
            obstacle = f"{self.name} was computed on zero rows"
        if obstacle:
            return GateResult(self.require, False, number.value, obstacle)
        close = math.isclose(number.value, bound, rel_tol=_TOLERANCE)
        met = _COMPARE[self.compare](bound if close else number.value, bound)
        value_text, bound_text = _distinct_texts(number.value, bound)
        must = "" if met else "not "
        return GateResult(
            self.require, met, number.value, f"{self.name} is {value_text}, {must}{self.compare} {bound_text}"
        )

    def _bound(self, number: Number, baseline: Sequence[Number] | None) -> tuple[float, str]:
        """Return the bound and, if the comparison is impossible, the reason."""
        if not self.relative:
            return self.offset, ""
        if baseline is None:
            return math.nan, "there is no baseline to compare with"
        named = [each for each in baseline if each.name == self.name]
        if not named:
            return math.nan, f"the baseline has no {self._noun} {self.name}"
        alike = [each for each in named if each.signature == number.signature]
        if not alike:
            return math.nan, f"not comparable: the signature is {number.signature}, the baseline's {named[0].signature}"
        before = alike[0]
        if before.n != number.n:
            return math.nan, f"not comparable: computed on {number.n} rows, the baseline on {before.n}"
        if not math.isfinite(before.value):
            return math.nan, f"the baseline's {self.name} is {before.value}, not a finite number"
        return self.factor * before.value + self.offset, ""

    @property
    def _noun(self) -> str:
        return "number" if self.exact else "score"


def parse_gate(text: str, *, exact: bool = False) -> Gate:
    """Parse a gate. `exact`: for counts and fractions, which allow `==`. Raises `UsageError`."""
    examples = _EXACT_EXAMPLES if exact else _EXAMPLES
    parts = _GATE.fullmatch(text)
    if not parts:
        raise UsageError(f"{text!r} is not a gate", hint=examples)
    name, compare, bound = parts["name"], parts["compare"], parts["bound"]
    require = f"{name}{compare}{bound}"
    if compare in ("=", "==", "!=") and not exact:
        raise UsageError(
            f"a gate on a score cannot use {compare!r} in {text!r}: the last digits of a measured score are noise",
            hint=f"use a bound: {name}>={bound or '20'}",
        )
    able = (*_BOUNDS, "==") if exact else _BOUNDS
    if compare not in able:
        raise UsageError(f"no such comparison {compare!r} in {text!r}", hint=f"comparisons: {', '.join(able)}")
    if re.fullmatch(_NUMBER, bound) and math.isfinite(float(bound)):
        return Gate(text, require, name, compare, 0.0, float(bound), exact)
    relative = _BASELINE.fullmatch(bound)
    by = float(relative["by"]) if relative and relative["by"] else 0.0
    if not relative or not math.isfinite(by):
        raise UsageError(f"{bound!r} in {text!r} is neither a number nor a baseline", hint=examples)
    if relative["change"] == "*":
        if by <= 0:
            raise UsageError(f"{text!r} multiplies the baseline by {by:g}", hint="write a factor above 0")
        return Gate(text, require, name, compare, by, 0.0, exact)
    return Gate(text, require, name, compare, 1.0, -by if relative["change"] == "-" else by, exact)


def parse_count_gate(text: str) -> Gate:
    """A gate on a share, `kept>=0.9`, or a count, `pii==0`. Raises `UsageError`.

    A bound with a decimal point is a share of the records read, a whole number is a count; 1 could be both.
    """
    gate = parse_gate(text, exact=True)
    if gate.relative:
        raise UsageError(f"the gate {text!r} needs a baseline, and counts have none")
    if not is_share(gate) and gate.offset == 1:
        raise UsageError(
            f"{text!r} could mean all records or one of them",
            hint=f"for the share of those read {gate.name}{gate.compare}1.0; for counts {gate.name}>0 or {gate.name}<2",
        )
    if is_share(gate) and not gate.possible(0.0, 1.0):
        raise UsageError(f"the gate {text!r} can never be met: a share of the records read is between 0 and 1")
    return gate


def is_share(gate: Gate) -> bool:
    """Whether the bound is a share of the records read."""
    return not gate.require.rpartition(gate.compare)[2].lstrip("+-").isdecimal()


def _distinct_texts(value: float, bound: float) -> tuple[str, str]:
    """Format both numbers with six significant digits, or as many as needed to distinguish them."""
    for digits in range(6, 17):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if texts[0] != texts[1] or math.isclose(value, bound, rel_tol=_TOLERANCE):
            return texts
    return repr(value), repr(bound)
