"""The thread that owns the engine: takes requests from any thread, answers them together, and hands out what happened.

Between two steps of the engine it runs one function of a call, such as scoring the labels of a record, so that neither kind
of work waits for the other to end. Calls take turns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, Failed, NewText, Sampling
from llmctl.errors import LlmctlError, untranslated
from llmctl.types import Event, EventSink, Request

T = TypeVar("T")

SECONDS_TO_STOP: Final = 10.0


class QueueFull(Exception):
    """More answers are waiting than may wait."""


class Ask(NamedTuple):
    """A request to be answered. `logprobs`: as in `EngineSession.submit`."""

    request: Request
    sampling: Sampling
    stream: bool = False
    logprobs: int | None = None


@dataclass(slots=True)
class _Open:
    """A ticket: who hears of it, and how many of its answers are still to come."""

    hear: Callable[[EngineEvent], None]
    answers: int


@dataclass(slots=True)
class _Call:
    work: Generator[None, None, Any]
    future: Future[Any]


class Scheduler:
    """Answers requests, `rows` at once; `queue` more may wait. All methods may be called from any thread."""

    def __init__(self, engine: Engine, *, rows: int, queue: int, emit: EventSink) -> None:
        self.engine, self.rows, self.queue, self.emit = engine, rows, queue, emit
        self.steps = self.tokens = self.failures = 0
        """Counts since the start: steps of the engine, tokens it generated, and steps that failed."""
        self._session: EngineSession = engine.session(rows=rows)
        self._open: dict[int, _Open] = {}
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(SECONDS_TO_STOP)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def load(self) -> int:
        """Answers that are being generated or waiting."""
        with self._changed:
            return self._load()

    def _load(self) -> int:
        return sum(each.answers for each in self._open.values()) + len(self._calls)

    def _take(self, answers: int) -> None:
        """Raise `QueueFull` where so many more do not fit. What is more than could ever fit is taken on its own."""
        load = self._load()
        if load and load + answers > self.rows + self.queue:
            raise QueueFull

    def submit(self, asks: Sequence[Ask], hear: Callable[[EngineEvent], None]) -> list[int]:
        """Take all requests, or none; returns their tickets. `hear` gets their events, in the engine's thread.

        Raises `QueueFull`, and what `EngineSession.submit` raises.
        """
        with self._changed:
            self._take(sum(ask.sampling.num_samples for ask in asks))
            for ask in asks:
                self.engine.check(ask.request, ask.sampling, logprobs=ask.logprobs)
            tickets = []
            for ask in asks:
                ticket = self._session.submit(ask.request, ask.sampling, stream=ask.stream, logprobs=ask.logprobs)
                self._open[ticket] = _Open(hear, ask.sampling.num_samples)
                tickets.append(ticket)
            self._changed.notify()
        return tickets

    def cancel(self, tickets: Sequence[int]) -> None:
        """Drop requests whose answers nobody waits for; their rows are free after the current step."""
        with self._changed:
            for ticket in tickets:
                if self._open.pop(ticket, None) is not None:
                    self._session.cancel(ticket)
            self._changed.notify()

    def call(self, functions: Iterable[Callable[[], T]]) -> Future[list[T]]:
        """Run the functions in the engine's thread, in turn with other work; all of them together wait as one answer. The
        result may be cancelled until the last has run. Raises `QueueFull`."""
        future: Future[list[T]] = Future()
        with self._changed:
            self._take(1)
            self._calls.append(_Call(_in_turns(functions), future))
            self._changed.notify()
        return future

    # -- the engine's thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._calls or self._session.pending):
                    self._changed.wait()
                if self._stopping:
                    break
                call = self._calls.popleft() if self._calls else None
            if call is not None and not call.future.cancelled():
                self._run(call)
            self._step()
        self._drop_all(LlmctlError("the server stops"))
        self._session.close()

    def _run(self, call: _Call) -> None:
        try:
            next(call.work)
        except StopIteration as end:
            if call.future.set_running_or_notify_cancel():
                call.future.set_result(end.value)
        except BaseException as error:  # the future carries it to whoever asked
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)
        else:
            with self._changed:
                self._calls.append(call)

    def _step(self) -> None:
        busy = self._session.pending > 0
        try:
            events = self._session.step()
        except Exception as error:  # what the model raises ends the session; the server goes on
            self.failures += 1
            found = error if isinstance(error, LlmctlError) else untranslated(error)
            self.emit(Event("warning", {"text": f"the model failed, its requests are lost: {found}"}))
            self._drop_all(found)
            self._session.close()
            with self._changed:
                self._session = self.engine.session(rows=self.rows)
            return
        self.steps += busy
        for event in events:
            self._deliver(event)

    def _deliver(self, event: EngineEvent) -> None:
        with self._changed:
            known = self._open.get(event.ticket)
            if known is None:
                return
            if isinstance(event, Answered):
                known.answers -= 1
                self.tokens += event.completion.tokens
            if isinstance(event, Failed) or (isinstance(event, Answered) and event.last):
                del self._open[event.ticket]
        known.hear(event)

    def _drop_all(self, error: LlmctlError) -> None:
        with self._changed:
            tickets, self._open = self._open, {}
            calls, self._calls = self._calls, deque()
        for ticket, each in tickets.items():
            each.hear(Failed(ticket, error))
        for call in calls:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)


def _in_turns(functions: Iterable[Callable[[], T]]) -> Generator[None, None, list[T]]:
    """Yields between two of them; returns what they return."""
    found: list[T] = []
    for function in functions:
        if found:
            yield
        found.append(function())
    return found


__all__ = ["Answered", "Ask", "Failed", "NewText", "QueueFull", "Scheduler"]
