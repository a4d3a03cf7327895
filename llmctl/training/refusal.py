"""Sends the error of a process that does not train to the others, which wait for it. Imports torch only if one of them is
there."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Final

from llmctl.errors import LlmctlError
from llmctl.training.world import MEETING_SECONDS
from llmctl.types import Event, EventSink

SECONDS: Final = 5
"""How long a process that refuses to train waits for a first one that `call`s it."""
AGAIN_SECONDS: Final = 0.25
"""Between two calls."""


def send(error: LlmctlError, host: str, port: int, others: int, emit: EventSink) -> None:
    """Report the error, then send it to the `others` processes, which meet this one at HOST:PORT."""
    emit(Event("warning", {"text": f"{error}; sending this error to the other processes of the run"}))
    with contextlib.suppress(OSError):  # another program may use the port
        here = "127.0.0.1" if host in ("127.0.0.1", "localhost") else ""
        with socket.create_server((here, port)) as listener:
            if not select.select([listener], [], [], SECONDS)[0]:
                return
            from llmctl.training import meeting

            meeting.refuse(error, host, port, others, listener.detach())


def send_too(host: str, port: int) -> None:
    """Let the process at HOST:PORT, which may be about to `send`, know that this one does not train either."""
    if _reaches(host, port):
        from llmctl.training import meeting

        meeting.refuse_too(host, port)


def call(host: str, port: int) -> None:
    """Connect to the process at HOST:PORT in the background once it is there, so that it knows of this one before torch
    is imported here."""

    def run() -> None:
        until = time.monotonic() + MEETING_SECONDS
        while not _reaches(host, port) and time.monotonic() < until:
            time.sleep(AGAIN_SECONDS)

    threading.Thread(target=run, name="call", daemon=True).start()


def _reaches(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=SECONDS):
        return True
    return False
