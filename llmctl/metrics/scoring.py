"""Answers in, scores out: every metric measured once, its rows kept for whoever asks more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmctl.config import Spec
from llmctl.errors import DataError
from llmctl.metrics import intervals
from llmctl.metrics.intervals import Rows
from llmctl.metrics.parse import label
from llmctl.metrics.spec import IntervalSpec, Metric, MetricSpec
from llmctl.types import Answer, Score

Facts = Mapping[str, Mapping[str, str]]
"""What signatures must say beside the metric's own, by what the metrics read."""
NO_FACTS: Final[Facts] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A prepared metric and its additive rows, (n, k), one for each answer in order."""

    metric: Metric
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores of all metrics; `measured` is by the metric as it was asked for: `bleu`, `bleu:tokenize=zh`."""

    scores: tuple[Score, ...]
    measured: Mapping[str, Measured]

    @property
    def rows(self) -> Mapping[str, Rows]:
        """What is stored beside the predictions: the rows of each metric."""
        return {name: each.rows for name, each in self.measured.items()}


def score_answers(
    metrics: Sequence[tuple[MetricSpec, Spec]],
    answers: Sequence[Answer],
    interval: IntervalSpec,
    seed: int,
    facts: Facts = NO_FACTS,
) -> Scored:
    """Score the answers by every metric. A score that is not finite stays so; gates take it for a failure.

    `facts` of how the answers came about go into the signatures.

    Raises `DataError` without answers, or where a metric cannot read one.
    """
    if not answers:
        raise DataError("no rows to score", hint="are the predictions, or this split of the data, empty?")
    scores: list[Score] = []
    measured: dict[str, Measured] = {}
    for description, options in metrics:
        each = measure(description.build(options), answers)
        measured[label(description, options)] = each
        scores += _scores(description, each, interval, seed, facts.get(description.reads, {}))
    return Scored(tuple(scores), measured)


def measure(metric: Metric, answers: Sequence[Answer]) -> Measured:
    """Prepare the metric on the answers and measure each."""
    metric.prepare(answers)
    return Measured(metric, np.array([metric.measure(answer) for answer in answers], dtype=np.float64))


def measure_both(metric: Metric, one: Sequence[Answer], other: Sequence[Answer]) -> tuple[Metric, Rows, Rows]:
    """The metric prepared on the answers of two systems together, and the rows of each: they mean the same, column
    by column."""
    both = measure(metric, [*one, *other]).rows
    return metric, both[: len(one)], both[len(one) :]


def _scores(
    description: MetricSpec, measured: Measured, interval: IntervalSpec, seed: int, facts: Mapping[str, str]
) -> list[Score]:
    metric, rows = measured.metric, measured.rows
    values = metric.score(rows.sum(axis=0).tolist())
    bounds = intervals.interval(rows, metric.score, level=interval.level, resamples=interval.resamples, seed=seed)
    signature = str(metric.signature().with_(**facts))
    return [
        Score(
            metric=name,
            value=float(values[name]),
            scale=description.scale,
            signature=signature,
            n=len(rows),
            higher_is_better=description.higher_is_better,
            ci=bounds.get(name),
        )
        for name in description.scores
    ]
