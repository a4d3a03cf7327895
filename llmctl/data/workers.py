"""Runs a function on many items in several processes; results come in the order of the items, whoever computed them."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Final, Protocol, Self, TypeVar

from llmctl.errors import EnvironmentFault
from llmctl.processes import end_children_with_this_process

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADED: Final = "TOKENIZERS_PARALLELISM"
"""The variable by which the library tokenizers decides about threads."""
SMALL_BYTES: Final = 4 << 20
"""Up to this much input, starting processes takes longer than it saves."""


class Executor(Protocol):
    """Where work is done: processes of this machine, or a cluster (`ray_workers.py`)."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The result for each item, in order; items are taken a few ahead. The function is one of a module, and items and
        results can be pickled. Raises what the function raises."""


class Workers:
    """This process and `count` - 1 others, which end with the `with` block."""

    def __init__(self, count: int) -> None:
        """Start the other processes now: they import their modules while this one does other work."""
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            import multiprocessing

            end_children_with_this_process()
            # Not `fork`: pyarrow and tokenizers use threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count - 1, mp_context=context, initializer=_start)
            # The terminal sends Ctrl-C to the whole process group, but the parent stops its workers itself. They inherit
            # the blocked signal, so it is blocked before they start to import.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                for _ in range(count - 1):
                    self._pool.submit(_ready)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def alone(self) -> bool:
        """Whether this process does all the work."""
        return self._pool is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Executor`. This process works too: on the first item that no other has started."""
        if self._pool is None:
            yield from map(function, items)
            return
        ahead = iter(items)
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        with _alive(), _single_threaded():
            while True:
                for item in islice(ahead, 2 * self._count - len(waiting)):
                    waiting.append((item, self._pool.submit(function, item)))
                if not waiting:
                    return
                item, head = waiting[0]
                if head.done() and not head.cancelled():
                    waiting.popleft()
                    yield head.result()
                elif (
                    free := next((number for number, (_, each) in enumerate(waiting) if each.cancel()), None)
                ) is None:
                    head.exception()  # waits
                else:
                    # When a process dies, Python 3.11 gives every pending future an exception, which fails for a
                    # cancelled one and leaves the others without.
                    vars(waiting[free][1])["set_exception"] = lambda error: None
                    done: Future[Result] = Future()
                    done.set_result(function(waiting[free][0]))
                    waiting[free] = (waiting[free][0], done)


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """Raise `EnvironmentFault` if a worker process died, whether that shows on submitting work or on its result."""
    try:
        yield
    except BrokenProcessPool:
        raise EnvironmentFault(
            "a worker process was killed", hint="it may have run out of memory; --workers 1 uses one process"
        ) from None


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Keep the tokenizer of this process, one of several, to one thread; a variable that the user set stays."""
    own = THREADED not in os.environ
    if own:
        os.environ[THREADED] = "false"
    try:
        yield
    finally:
        if own:
            os.environ.pop(THREADED, None)


def worker_count(requested: int, input_bytes: int) -> int:
    """Number of processes: `requested`, or, if 0, one per core for large inputs and 1 for small ones."""
    if requested:
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if input_bytes > SMALL_BYTES else 1


def _start() -> None:
    os.environ.setdefault(THREADED, "false")
    atexit.register(gc.freeze)  # the interpreter would search all that was imported for cycles


def _ready() -> None:
    """Import what the work will need."""
    import pyarrow.parquet  # noqa: F401
    import tokenizers  # noqa: F401
