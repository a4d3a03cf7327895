"""Batches of items of like length, with results in the order of the items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
R = TypeVar("R")

WINDOW: Final = 16
"""Batches whose items are sorted by length together; their results are put back in order."""


def sorted_batches(
    items: Sequence[Item],
    batch_size: int,
    *,
    key: Callable[[Item], Any],
    run: Callable[[Sequence[Item]], Sequence[R]],
    together: Callable[[Sequence[Item], Item], bool] = lambda batch, item: True,
) -> Iterator[R]:
    """`run` over batches of items of like length, the longest first (so that memory that suffices for the first
    batch suffices for all); results in the order of the items.

    `together`: whether an item may join a batch.
    """
    for start in range(0, len(items), WINDOW * batch_size):
        part = items[start : start + WINDOW * batch_size]
        order = sorted(range(len(part)), key=lambda number: key(part[number]), reverse=True)
        results: dict[int, R] = {}
        batch: list[int] = []
        for number in (*order, None):
            full = len(batch) == batch_size
            if batch and (number is None or full or not together([part[each] for each in batch], part[number])):
                results.update(zip(batch, run([part[each] for each in batch]), strict=True))
                batch = []
            if number is not None:
                batch.append(number)
        yield from (results[number] for number in range(len(part)))
