"""Answers in, scores out. Each metric is measured once; its rows are kept for further statistics."""

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
from llmctl.metrics.references import reference_script
from llmctl.metrics.spec import FittedMetric, IntervalSpec, Metric, MetricSpec
from llmctl.script import UNSPACED
from llmctl.types import Answer, Score

ROWS_FOR_INTERVAL: Final = 2
"""Fewer rows have no spread to resample."""

Facts = Mapping[str, Mapping[str, str]]
"""Additional signature fields, by the metrics' output type."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A metric built with its options; `label` is the request: `bleu`, `bleu:tokenize=zh`."""

    spec: MetricSpec
    metric: Metric
    label: str

    @classmethod
    def of(cls, spec: MetricSpec, options: Spec) -> Built:
        return cls(spec, spec.build(options), label(spec, options))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A metric fitted to answers, and its additive rows (n, k), one per answer in order."""

    metric: FittedMetric
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores of all metrics; `measured` is keyed by metric label."""

    scores: tuple[Score, ...]
    measured: Mapping[str, Measured]
    warnings: tuple[str, ...] = ()
    """What a reader of the scores should know."""

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The rows of each metric, stored beside the predictions."""
        return {name: each.rows for name, each in self.measured.items()}


def fitting_script(
    metrics: Sequence[tuple[MetricSpec, Spec]], answers: Sequence[Answer]
) -> Sequence[tuple[MetricSpec, Spec]]:
    """The metrics without those that count words between spaces, if the references are in a script without spaces."""
    kept = [each for each in metrics if not each[0].needs_spaces]
    return kept if kept and len(kept) < len(metrics) and reference_script(answers) in UNSPACED else metrics


def score_answers(
    metrics: Sequence[tuple[MetricSpec, Spec]],
    answers: Sequence[Answer],
    interval: IntervalSpec,
    seed: int,
    facts: Facts | None = None,
) -> Scored:
    """Score the answers with every metric. Scores that are not finite are kept; gates treat them as failures.

    `facts` about how the answers were produced are added to the signatures.

    Raises `DataError` if there are no answers, or if a metric cannot score one.
    """
    return score_built([Built.of(*each) for each in metrics], answers, interval, seed, facts)


def score_built(
    metrics: Sequence[Built],
    answers: Sequence[Answer],
    interval: IntervalSpec,
    seed: int,
    facts: Facts | None = None,
) -> Scored:
    """Like `score_answers`, with metrics that are already built."""
    if not answers:
        raise DataError("no rows to score", hint="check whether the predictions or this split of the data are empty")
    scores: list[Score] = []
    warnings = [] if any(built.spec.output_type != "text" for built in metrics) else _of_blanks(answers)
    measured: dict[str, Measured] = {}
    for built in metrics:
        each = measure(built.metric, answers)
        measured[built.label] = each
        # A method that only some metrics have.
        warnings += getattr(built.metric, "warnings", _no_warnings)(answers)
        scores += _scores(built.spec, each, interval, seed, (facts or {}).get(built.spec.output_type, {}))
    if len(answers) < ROWS_FOR_INTERVAL and interval.resamples:
        warnings.append("one row is too few for a confidence interval or a paired test: there is none")
    return Scored(tuple(scores), measured, tuple(dict.fromkeys(warnings)))


def _of_blanks(answers: Sequence[Answer]) -> list[str]:
    """A warning about blank texts, which most metrics score as if they were answers."""
    predicted = [bool(answer.prediction.strip()) for answer in answers]
    referred = [any(text.strip() for text in answer.references) for answer in answers]
    if not any(referred):
        also = "" if any(predicted) else " and every prediction"
        return [f"every reference{also} is blank: the scores say nothing"]
    if missing := sum(there and not found for found, there in zip(predicted, referred, strict=True)):
        what = "is blank, and its reference is" if missing == 1 else "are blank, and their references are"
        return [f"{missing:,} of {len(answers):,} predictions {what} not"]
    return []


def _no_warnings(answers: Sequence[Answer]) -> list[str]:
    return []


def measure(metric: Metric, answers: Sequence[Answer]) -> Measured:
    """Prepare the metric on all answers and measure each of them."""
    fitted = metric.prepare(answers)
    return Measured(fitted, np.array([fitted.measure(answer) for answer in answers], dtype=np.float64))


def measure_both(metric: Metric, one: Sequence[Answer], other: Sequence[Answer]) -> tuple[FittedMetric, Rows, Rows]:
    """The metric prepared on the answers of two systems together, and the rows of each, with the same columns."""
    both = measure(metric, [*one, *other])
    return both.metric, both.rows[: len(one)], both.rows[len(one) :]


def _scores(
    description: MetricSpec, measured: Measured, interval: IntervalSpec, seed: int, facts: Mapping[str, str]
) -> list[Score]:
    metric, rows = measured.metric, measured.rows
    values = metric.score(rows.sum(axis=0).tolist())
    resamples = interval.resamples if len(rows) >= ROWS_FOR_INTERVAL else 0
    bounds = intervals.interval(rows, metric.score, level=interval.level, resamples=resamples, seed=seed)
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
