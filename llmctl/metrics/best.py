"""Which of several systems is the best on the same questions, where a paired test says that one is."""

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
"""Systems are told apart by a p below this."""
RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class System:
    """What a system answered, and its scores in the order of the metrics."""

    name: str
    answers: Sequence[Answer]
    scores: Sequence[Score]


@dataclass(frozen=True, slots=True)
class BestSystem:
    """Who leads by one score. `model` is None where no test says that the leader is better than every other."""

    metric: str
    signature: str
    model: str | None
    leader: str | None
    value: float | None
    p: Mapping[str, float] = field(default_factory=dict)
    """Of the leader against each other: approximate randomization, two-sided, after Holm's correction."""
    why: str | None = None
    """Why none is marked."""


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values of several tests, corrected so that all together hold their level: Holm 1979, Scand. J. Statist. 6.

    One that is not a number leaves none of them one: nothing is known of the family.
    """
    if any(math.isnan(value) for value in p.values()):
        return dict.fromkeys(p, math.nan)
    corrected = dict(p)
    least = 0.0
    for rank, name in enumerate(sorted(p, key=lambda each: p[each])):
        corrected[name] = least = max(least, min(1.0, (len(p) - rank) * p[name]))
    return corrected


def best_of(metrics: Sequence[tuple[MetricSpec, Spec]], systems: Sequence[System], *, seed: int) -> list[BestSystem]:
    """The best by every score of the metrics. The systems are to have answered the same questions in the same order.

    Raises `DataError` where they did not.
    """
    found: list[BestSystem] = []
    for spec, options in metrics:
        found += _of_metric(spec, options, systems, len(found), seed)
    return found


def _of_metric(
    spec: MetricSpec, options: Spec, systems: Sequence[System], start: int, seed: int
) -> Iterator[BestSystem]:
    """The best by the scores of one metric, which stand in each system's from `start` on."""
    metric = spec.build(options)

    @cache
    def tests(one: int, other: int) -> Mapping[str, Paired]:
        fitted, rows, rows_other = measure_both(metric, systems[one].answers, systems[other].answers)
        return paired(rows, rows_other, fitted.score, resamples=RESAMPLES, seed=seed)

    sign = 1 if spec.higher_is_better else -1
    for place, name in enumerate(spec.scores, start):
        scores = [system.scores[place] for system in systems]
        finite = [number for number, score in enumerate(scores) if math.isfinite(score.value)]
        signatures = sorted({score.signature for score in scores})
        if not finite or len(signatures) > 1:
            obstacle = f"not comparable: {' and '.join(signatures)}" if finite else "no score is finite"
            yield BestSystem(name, signatures[0] if len(signatures) == 1 else "", None, None, None, why=obstacle)
            continue
        leader = max(finite, key=lambda number: sign * scores[number].value)
        others = [number for number in range(len(systems)) if number != leader]
        p = holm({systems[other].name: tests(leader, other)[name].p_randomization for other in others})
        name_of_leader, doubt = systems[leader].name, _doubt(p)
        model = name_of_leader if doubt is None else None
        yield BestSystem(name, signatures[0], model, name_of_leader, scores[leader].value, p, doubt)


def _doubt(p: Mapping[str, float]) -> str | None:
    """Why a leader with these p values against the others is not marked."""
    if not p:
        return "there is no other to compare with"
    close = [name for name, value in p.items() if not value < LEVEL]
    return f"the leader may be no better than {', '.join(close)}" if close else None
