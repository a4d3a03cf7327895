"""Paired significance tests of two systems on the same rows, computed from their additive rows.

Both tests follow sacrebleu's `PairedTest`, with one difference: a resample whose difference equals the observed one
counts against significance. sacrebleu counts only larger differences and so reports two identical systems as
significantly different (p = 1/(resamples + 1)); here their p is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmctl.errors import DataError
from llmctl.metrics.intervals import DRAWS_AT_ONCE, Rows, ScoreRows, blocks, bootstrap_weights, score_each

_ROUNDING: Final = 1e-9
"""Scores closer than this are equal: the last bits of a sum depend on the order of summation."""


@dataclass(frozen=True, slots=True)
class Paired:
    """The results of both paired tests for one score; `difference` is system minus baseline."""

    metric: str
    baseline: float
    value: float
    difference: float
    p_bootstrap: float
    """Paired bootstrap: Koehn 2004. One-tailed, as in sacrebleu: about half of `p_randomization` if both are small."""
    p_randomization: float
    """Approximate randomization: Riezler and Maxwell 2005; two-sided."""
    resamples: int
    seed: int


def paired(
    rows: Rows,
    baseline: Rows,
    score: ScoreRows,
    *,
    resamples: int,
    seed: int,
    draws_at_once: int = DRAWS_AT_ONCE,
) -> dict[str, Paired]:
    """Compare a system with its baseline, each given as rows (n, k) of one metric on the same n questions.

    The metric must be prepared once, on the answers of both systems (the columns of macro F1 depend on the labels).

    Raises `DataError` if the shapes differ.
    """
    if rows.shape != baseline.shape or not len(rows):
        raise DataError(f"the rows of the two systems do not match: {rows.shape} and {baseline.shape}")
    values, values_baseline = score(rows.sum(axis=0).tolist()), score(baseline.sum(axis=0).tolist())
    with np.errstate(invalid="ignore"):  # non-finite rows give a non-finite p
        resampled = _bootstrap(rows, baseline, score, resamples, seed, draws_at_once)
        swapped = _randomization(rows, baseline, score, resamples, seed, draws_at_once)
        centred = {name: np.abs(apart) - np.abs(apart).mean() for name, apart in resampled.items()}
    return {
        name: Paired(
            metric=name,
            baseline=values_baseline[name],
            value=value,
            difference=value - values_baseline[name],
            p_bootstrap=_p(centred[name], value - values_baseline[name]),
            p_randomization=_p(np.abs(swapped[name]), value - values_baseline[name]),
            resamples=resamples,
            seed=seed,
        )
        for name, value in values.items()
    }


def _bootstrap(
    rows: Rows, baseline: Rows, score: ScoreRows, resamples: int, seed: int, draws_at_once: int
) -> dict[str, NDArray[np.float64]]:
    """Differences between the systems on the same resampled rows, (r,) for each score."""
    both = [
        (weights @ rows, weights @ baseline) for weights in bootstrap_weights(len(rows), resamples, seed, draws_at_once)
    ]
    return _differences(both, score)


def _randomization(
    rows: Rows, baseline: Rows, score: ScoreRows, resamples: int, seed: int, draws_at_once: int
) -> dict[str, NDArray[np.float64]]:
    """Differences after swapping each pair of rows with probability 1/2, (r,) for each score."""
    random = np.random.default_rng(seed)
    both = []
    for block in blocks(len(rows), resamples, draws_at_once):
        stay = random.integers(2, size=(block, len(rows)), dtype=bool).astype(np.float64)  # (r, n)
        both.append((stay @ rows + (1 - stay) @ baseline, stay @ baseline + (1 - stay) @ rows))
    return _differences(both, score)


def _differences(both: list[tuple[Rows, Rows]], score: ScoreRows) -> dict[str, NDArray[np.float64]]:
    one = score_each(np.concatenate([sums for sums, _ in both]), score)
    other = score_each(np.concatenate([sums for _, sums in both]), score)
    return {name: one[name] - other[name] for name in one}


def _p(statistics: NDArray[np.float64], difference: float) -> float:
    """The fraction of differences at least as large as the observed one, which is counted among them."""
    if not np.isfinite(difference) or not np.isfinite(statistics).all():
        return float("nan")
    as_far = int(np.count_nonzero(statistics >= abs(difference) - _ROUNDING))
    return (as_far + 1) / (len(statistics) + 1)
