"""Intervals and paired tests: deterministic, right where the answer is known, bounded in memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmctl.errors import DataError
from llmctl.metrics import intervals
from llmctl.metrics.intervals import Rows, interval
from llmctl.metrics.paired import paired
from llmctl.metrics.parse import parse_metric
from llmctl.metrics.scoring import score_answers
from llmctl.metrics.spec import IntervalSpec, Statistics
from llmctl.types import Answer, Interval


def mean(total: Statistics) -> dict[str, float]:
    return {"mean": total[0] / total[1]}


def rows_of(values: np.ndarray) -> Rows:
    return np.stack([values, np.ones_like(values)], axis=1)


def test_the_interval_of_a_mean_matches_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    found = interval(rows_of(values), mean, level=0.95, resamples=2000, seed=0)["mean"]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert (found.method, found.level, found.resamples, found.seed) == ("percentile bootstrap", 0.95, 2000, 0)


def test_a_higher_level_is_wider_and_a_seed_reproduces_the_interval() -> None:
    rows = rows_of(np.arange(50.0))

    def at(level: float, seed: int) -> Interval:
        return interval(rows, mean, level=level, resamples=500, seed=seed)["mean"]

    assert at(0.95, 1) == at(0.95, 1)
    assert at(0.95, 1) != at(0.95, 2)
    assert at(0.99, 1).low < at(0.8, 1).low < at(0.8, 1).high < at(0.99, 1).high


def test_splitting_the_resamples_into_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(np.arange(60.0))
    whole = interval(rows, mean, level=0.9, resamples=100, seed=4), paired(rows, rows**2, mean, resamples=100, seed=4)
    monkeypatch.setattr(intervals, "_BLOCK", 60 * 7)
    cut = interval(rows, mean, level=0.9, resamples=100, seed=4), paired(rows, rows**2, mean, resamples=100, seed=4)
    assert cut == whole


def test_one_row_has_no_interval_but_a_warning_and_no_resamples_no_interval() -> None:
    answers = [Answer("0", "all are free", ("all are equal",))]
    scored = score_answers([parse_metric("chrf")], answers, IntervalSpec(), 0)
    assert scored.scores[0].ci is None
    assert "one row is too few" in scored.warnings[0]
    assert score_answers([parse_metric("chrf")], answers, IntervalSpec(resamples=0), 0).scores[0].ci is None


def test_scores_that_are_not_finite_have_bounds_that_are_not() -> None:
    answers = [Answer("0", logprob=-1.0, tokens=1), Answer("1", logprob=-math.inf, tokens=1)]
    score = score_answers([parse_metric("perplexity")], answers, IntervalSpec(), 0).scores[0]
    assert score.value == math.inf
    assert score.ci is not None
    assert not math.isfinite(score.ci.high)


def test_every_metric_has_its_own_rows_under_its_requested_name() -> None:
    answers = [Answer(str(n), "All are equal", ("all are equal",)) for n in range(3)]
    asked = [parse_metric(text) for text in ("bleu", "bleu:lowercase=true", "rouge")]
    scored = score_answers(asked, answers, IntervalSpec(), 0)
    assert {name: rows.shape for name, rows in scored.rows.items()} == {
        "bleu": (3, 10),
        "bleu:lowercase=true": (3, 10),
        "rouge": (3, 5),
    }
    assert [score.metric for score in scored.scores] == ["bleu", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert all(score.n == 3 and score.ci and score.ci.resamples == 1000 for score in scored.scores)


def test_identical_systems_are_not_different() -> None:
    rows = rows_of(np.arange(30.0))
    found = paired(rows, rows, mean, resamples=200, seed=0)["mean"]
    assert (found.difference, found.p_bootstrap, found.p_randomization) == (0, 1, 1)


def test_a_clear_difference_is_found_and_chance_is_not() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0, 1, 200)
    better = paired(rows_of(base + 0.5 + random.normal(0, 0.1, 200)), rows_of(base), mean, resamples=500, seed=0)[
        "mean"
    ]
    rng = paired(rows_of(base + random.normal(0, 1, 200)), rows_of(base), mean, resamples=500, seed=0)["mean"]
    assert better.difference == pytest.approx(0.5, abs=0.05)
    assert better.p_bootstrap == better.p_randomization == pytest.approx(1 / 501)
    assert rng.p_randomization > 0.05


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="do not match"):
        paired(rows_of(np.arange(3.0)), rows_of(np.arange(4.0)), mean, resamples=10, seed=0)


def test_paired_rows_that_are_not_finite_prove_nothing() -> None:
    rows = rows_of(np.array([1.0, 2.0, np.inf]))
    found = paired(rows, rows_of(np.arange(3.0)), mean, resamples=20, seed=0)["mean"]
    assert math.isnan(found.p_bootstrap)
    assert math.isnan(found.p_randomization)
