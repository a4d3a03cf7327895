"""Batches built ahead of their step by a worker thread, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(step)` for consecutive steps, up to `depth` of them before they are asked for; 0 makes each when it is."""

    def __init__(self, make: Callable[[int], T], *, depth: int) -> None:
        self._make, self._depth = make, depth
        self._pending: deque[tuple[int, Future[T]]] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches") if depth else None

    def __call__(self, step: int) -> T:
        """What `make` returns for `step`; raises what it raises."""
        if self._worker is None:
            return self._make(step)
        following = self._pending[-1][0] + 1 if self._pending else step
        for each in range(following, step + self._depth + 1):
            self._pending.append((each, self._worker.submit(self._make, each)))
        number, made = self._pending.popleft()
        assert number == step, "steps are consecutive"
        return made.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
