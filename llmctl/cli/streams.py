"""Standard streams that are closed or cannot be used: cron, systemd and scripts start programs with such."""

from __future__ import annotations

import fcntl
import io
import os
import sys
from typing import IO, Any

from llmctl.errors import EnvironmentFault


class _Closed(io.RawIOBase):
    """A closed standard output: writing to it is an error, as on a full disk."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raise EnvironmentFault("cannot write to standard output: it is closed")


class _Messages(io.FileIO):
    """Standard error: a message that cannot be written, on a full disk or to a reader that is gone, fails no command."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_closed() -> None:
    """Open /dev/null for each closed descriptor, so that no file that is opened later takes its number.

    Progress and errors go nowhere if standard error is closed or cannot be written to. Results have to go somewhere:
    writing one to a closed standard output is an error. A standard input that cannot be read is a closed one.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, so it is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        sys.stdin = None  # not tried by reading, which would stop a job in the background of a terminal
    if sys.stderr is None:
        sys.stderr = nowhere()
    else:
        messages = io.BufferedWriter(_Messages(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(messages, encoding="utf-8", line_buffering=True)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8")


def nowhere() -> IO[str]:
    """A stream that discards what is written to it."""
    return open(os.devnull, "w", encoding="utf-8")
