"""The best of several systems on the same questions, marked only if paired tests separate it from every other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from llmctl.config import Spec
from llmctl.metrics.paired import Paired, paired
from llmctl.metrics.scoring import measure_both
from llmctl.metrics.spec import MetricSpec
from llmctl.types import Answer, Score

LEVEL: Final = 0.05
"""Significance level: two systems differ if p is below it."""
RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class System:
    """A system's answers, and its scores in the order of the metrics."""

    name: str
    answers: Sequence[Answer]
    scores: Sequence[Score]


@dataclass(frozen=True, slots=True)
class BestSystem:
    """The leader by one score. `model` is None unless tests show that the leader is better than every other system."""

    metric: str
    signature: str
    model: str | None
    leader: str | None
    value: float | None
    p: Mapping[str, float] = field(default_factory=dict)
    """p of the leader against each other system: approximate randomization, two-sided, Holm-corrected."""
    why: str | None = None
    """Why no system is marked as best."""


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for multiple tests, controlling the family-wise error rate: Holm 1979, Scand. J. Statist. 6.

    If one of them is NaN, all become NaN.
    """
    if any(math.isnan(value) for value in p.values()):
        return dict.fromkeys(p, math.nan)
    corrected = dict(p)
    least = 0.0
    for rank, name in enumerate(sorted(p, key=lambda each: p[each])):
        corrected[name] = least = max(least, min(1.0, (len(p) - rank) * p[name]))
    return corrected


def best_of(metrics: Sequence[tuple[MetricSpec, Spec]], systems: Sequence[System], *, seed: int) -> list[BestSystem]:
    """The best system by every score of the metrics. All systems must answer the same questions in the same order.

    Raises `DataError` otherwise.
    """
    found: list[BestSystem] = []
    for spec, options in metrics:
        found += _of_metric(spec, options, systems, len(found), seed)
    return found


def _of_metric(
    spec: MetricSpec, options: Spec, systems: Sequence[System], start: int, seed: int
) -> Iterator[BestSystem]:
    """The best system by each score of one metric; these scores begin at index `start` in each system's scores."""
    metric = spec.build(options)

    @cache
    def tests(one: int, other: int) -> Mapping[str, Paired]:
        fitted, rows, rows_other = measure_both(metric, systems[one].answers, systems[other].answers)
        return paired(rows, rows_other, fitted.score, resamples=RESAMPLES, seed=seed)

    sign = 1 if spec.higher_is_better else -1
    for index, name in enumerate(spec.scores, start):
        scores = [system.scores[index] for system in systems]
        finite = [number for number, score in enumerate(scores) if math.isfinite(score.value)]
        signatures = sorted({score.signature for score in scores})
        if not finite or len(signatures) > 1:
            obstacle = f"not comparable: {' and '.join(signatures)}" if finite else "no score is finite"
            yield BestSystem(name, signatures[0] if len(signatures) == 1 else "", None, None, None, why=obstacle)
            continue
        leader = max(finite, key=lambda number: sign * scores[number].value)
        others = [number for number in range(len(systems)) if number != leader]
        p = holm({systems[other].name: tests(leader, other)[name].p_randomization for other in others})
        leader_name, reason = systems[leader].name, _why_not_best(p)
        model = leader_name if reason is None else None
        yield BestSystem(name, signatures[0], model, leader_name, scores[leader].value, p, reason)


def _why_not_best(p: Mapping[str, float]) -> str | None:
    """Why a leader with these p values against the others is not marked as best; None if it is."""
    if not p:
        return "there is no other model to compare with"
    close = [name for name, value in p.items() if not value < LEVEL]
    return f"not significantly better than {', '.join(close)}" if close else None
