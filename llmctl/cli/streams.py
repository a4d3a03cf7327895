"""Standard streams that the caller closed: cron and systemd start programs without some of them."""

from __future__ import annotations

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


def open_closed() -> None:
    """Open /dev/null for each closed descriptor, so that no file that is opened later takes its number.

    Progress and errors go nowhere if standard error is closed. Results have to go somewhere: writing one to a closed
    standard output is an error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, so it is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = nowhere()
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8")


def nowhere() -> IO[str]:
    """A stream that discards what is written to it."""
    return open(os.devnull, "w", encoding="utf-8")
