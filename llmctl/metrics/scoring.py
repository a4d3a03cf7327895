"""Answers in, scores out: every metric measured once, its rows kept for whoever asks more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmctl.config import Spec
from llmctl.errors import DataError
from llmctl.metrics import intervals
from llmctl.metrics.intervals import Rows
from llmctl.metrics.parse import label
from llmctl.metrics.spec import FittedMetric, IntervalSpec, Metric, MetricSpec
from llmctl.types import Answer, Score

Facts = Mapping[str, Mapping[str, str]]
"""What signatures must say beside the metric's own, by what the metrics read."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A metric built with its options; `label` is the metric as it was asked for: `bleu`, `bleu:tokenize=zh`."""

    spec: MetricSpec
    metric: Metric
    label: str

    @classmethod
    def of(cls, spec: MetricSpec, options: Spec) -> Built:
        return cls(spec, spec.build(options), label(spec, options))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A metric fitted to answers, and its additive rows, (n, k), one for each of them in order."""

    metric: FittedMetric
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores of all metrics; `measured` is by their labels."""

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
    facts: Facts | None = None,
) -> Scored:
    """Score the answers by every metric. A score that is not finite stays so; gates take it for a failure.

    `facts` of how the answers came about go into the signatures.

    Raises `DataError` without answers, or where a metric cannot read one.
    """
    return score_built([Built.of(*each) for each in metrics], answers, interval, seed, facts)


def score_built(
    metrics: Sequence[Built],
    answers: Sequence[Answer],
    interval: IntervalSpec,
    seed: int,
    facts: Facts | None = None,
) -> Scored:
    """As `score_answers`, by metrics that are built already."""
    if not answers:
        raise DataError("no rows to score", hint="are the predictions, or this split of the data, empty?")
    scores: list[Score] = []
    measured: dict[str, Measured] = {}
    for built in metrics:
        each = measure(built.metric, answers)
        measured[built.label] = each
        scores += _scores(built.spec, each, interval, seed, (facts or {}).get(built.spec.output_type, {}))
    return Scored(tuple(scores), measured)


def measure(metric: Metric, answers: Sequence[Answer]) -> Measured:
    """Prepare the metric on the answers and measure each."""
    fitted = metric.prepare(answers)
    return Measured(fitted, np.array([fitted.measure(answer) for answer in answers], dtype=np.float64))


def measure_both(metric: Metric, one: Sequence[Answer], other: Sequence[Answer]) -> tuple[FittedMetric, Rows, Rows]:
    """The metric prepared on the answers of two systems together, and the rows of each: they mean the same, column
    by column."""
    both = measure(metric, [*one, *other])
    return both.metric, both.rows[: len(one)], both.rows[len(one) :]


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
