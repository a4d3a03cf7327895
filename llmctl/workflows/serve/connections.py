"""HTTP connections with a time limit for clients that send or read slowly, which uvicorn does not have."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """Closes a connection whose client takes longer than `seconds` to send the head of a request, or to take what it was
    sent. Where there would be more than `most` connections, the one closes that has waited longest for a request."""

    seconds: ClassVar[float]
    most: ClassVar[int]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._make_room()
        self._wait_for_request(self.seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._busy:
            self._forget_deadline()

    def on_response_complete(self) -> None:
        self._forget_deadline()
        super().on_response_complete()
        if not self._busy:
            # The first bytes of the next request end uvicorn's limit for idle connections.
            self._wait_for_request(self.timeout_keep_alive + self.seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a request; this one, if all are busy."""
        idle = [each for each in self.connections if isinstance(each, TimedConnection) and each._deadline is not None]
        longest = min(idle, key=lambda each: each._deadline.when() if each._deadline else 0.0, default=self)
        longest.transport.abort()

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered; its body has a time limit of its own."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_request(self, seconds: float) -> None:
        """The head of the next request must be there in time."""
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
