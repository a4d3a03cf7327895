"""Length-sorted batching that returns results in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
R = TypeVar("R")

WINDOW: Final = 16
"""Number of batches sorted by length together; results are restored to input order."""


def sorted_batches(
    items: Sequence[Item],
    batch_size: int,
    *,
    key: Callable[[Item], Any],
    run: Callable[[Sequence[Item]], Sequence[R]],
    together: Callable[[Sequence[Item], Item], bool] = lambda batch, item: True,
) -> Iterator[R]:
    """Call `run` on batches of items of similar length and yield the results in input order.

    Each window starts with its longest items, so that if the first batch fits in memory, the others do too.
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
