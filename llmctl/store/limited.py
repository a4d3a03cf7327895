"""Runs a function in a child process with limits on time and memory, for third-party code that may never end.

A chat template or a pattern of a tokenizer is such code. A signal in this process cannot stop it: one call of a library
written in C or Rust may take hours and gigabytes, and the handler would run only afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llmctl.store.border import summary

WALL_SECONDS: Final = 30.0
"""Limit of real time, which only a child that is stuck reaches; on a busy machine a child gets little CPU time."""
_PIPE: Final = 1 << 16


class LimitExceeded(Exception):
    """The function took too much time or memory; the message says which."""


def call(function: Callable[[], str], *, seconds: float, megabytes: int) -> str:
    """The text that `function` returns. What it raises is raised here as a `RuntimeError` with its type and message.

    Raises `LimitExceeded` beyond `seconds` of CPU time or `megabytes` of memory in addition to this process's. Where
    processes cannot be forked (Windows), there are no limits.
    """
    if not hasattr(os, "fork"):
        return function()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of threads; the child calls nothing that waits for one
        child = os.fork()
    if child == 0:
        os.close(reading)
        _child(function, writing, seconds, megabytes)
    os.close(writing)
    try:
        answer = _read(reading, child)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        raise LimitExceeded(f"takes more than {seconds:g} s")
    found: dict[str, str] = json.loads(answer)
    if "memory" in found:
        raise LimitExceeded(f"needs more than {megabytes} MB of memory")
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["text"]


def _read(pipe: int, child: int) -> bytes:
    """What the child writes until it ends; nothing if it was ended by a limit."""
    pieces: list[bytes] = []
    end = time.monotonic() + WALL_SECONDS
    while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(pipe, _PIPE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    return b""


def _child(function: Callable[[], str], pipe: int, seconds: float, megabytes: int) -> None:
    """Run the function in the child process and end it; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        random.seed(0)  # a template may draw: the same text each time
        _limit_memory(megabytes)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            found = {"text": function()}
        except MemoryError:
            found = {"memory": "exceeded"}
        except BaseException as error:  # a panic of Rust is no Exception
            found = {"error": summary(error)}
        answer = json.dumps(found).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        while answer:
            answer = answer[os.write(pipe, answer) :]
    finally:
        os._exit(0)


def _limit_memory(megabytes: int) -> None:
    """Let this process take so much memory in addition to what it has. Only Linux says what that is."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + megabytes * 1_000_000
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
