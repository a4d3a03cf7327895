"""Confidence intervals by resampling additive rows: the bootstrap is a single matrix product.

Letters: n rows, k statistics a row, r resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmctl.metrics.spec import Statistics
from llmctl.types import Interval

Rows = NDArray[np.float64]
"""Additive rows, (n, k), or their sums, (r, k)."""
ScoreRows = Callable[[Statistics], Mapping[str, float]]
"""A metric's `score`."""

METHOD: Final = "percentile bootstrap"
DRAWS_AT_ONCE: Final = 4_000_000
"""Maximum number of draws in memory, which bounds memory for any n."""


def interval(
    rows: Rows, score: ScoreRows, *, level: float, resamples: int, seed: int, draws_at_once: int = DRAWS_AT_ONCE
) -> dict[str, Interval]:
    """The percentile bootstrap interval of every score: Efron 1979; for BLEU, Koehn 2004.

    `rows` is (n, k). If the score of a resample is not finite, the bounds may not be finite either.
    """
    if not resamples:
        return {}
    tail = (1 - level) / 2
    found = {}
    with np.errstate(invalid="ignore"):  # 0 * inf and inf - inf give nan, as they should
        weights = bootstrap_weights(len(rows), resamples, seed, draws_at_once)
        draws = np.concatenate([each @ rows for each in weights])
        for name, values in score_each(draws, score).items():
            low, high = np.quantile(values, (tail, 1 - tail))
            found[name] = Interval(level, float(low), float(high), METHOD, resamples, seed)
    return found


def bootstrap_weights(n: int, resamples: int, seed: int, draws_at_once: int = DRAWS_AT_ONCE) -> Iterator[Rows]:
    """How often each of n rows is drawn in each resample, in blocks of shape (r, n) that add up to `resamples`.

    The draws equal those of sacrebleu's bootstrap for the same seed.
    """
    random = np.random.default_rng(seed)
    for block in blocks(n, resamples, draws_at_once):
        drawn = random.integers(0, n, size=(block, n))
        places = drawn + n * np.arange(block)[:, None]
        yield np.bincount(places.ravel(), minlength=block * n).reshape(block, n).astype(np.float64)


def blocks(n: int, resamples: int, draws_at_once: int = DRAWS_AT_ONCE) -> Iterator[int]:
    """`resamples` split into blocks with a bounded number of draws."""
    most = max(1, draws_at_once // n)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def score_each(sums: Rows, score: ScoreRows) -> dict[str, NDArray[np.float64]]:
    """Every score of each summed row: (r, k) -> (r,) by score name."""
    values = [score(total) for total in sums.tolist()]
    return {name: np.array([each[name] for each in values]) for name in values[0]}
