"""Windows over a sequence that is longer than a model reads at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def spans(start: int, end: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Split the scoring of the tokens [start, end) of a sequence into passes that fit a sliding window.

    Yields (begin, first, last): score the tokens [first, last) given the tokens [begin, first). Each pass reads at most
    `window` tokens (its last token is scored but not read). The first pass scores as many as the window holds, each
    later one `stride` more, so that every token has a context of at least `window - stride` tokens, or all before it.
    """
    first = max(start, 1)  # the first token has no context to be predicted from
    last = min(end, max(window + 1, first + stride))
    while first < end:
        yield max(0, last - window - 1), first, last
        first, last = last, min(end, last + stride)


def count(start: int, end: int, window: int, stride: int) -> int:
    """The number of `spans`."""
    first = max(start, 1)
    last = min(end, max(window + 1, first + stride))
    return 1 + -(-(end - last) // stride) if first < end else 0


def runs(loss_mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs [start, end) of True."""
    edges = np.flatnonzero(np.diff(loss_mask, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
