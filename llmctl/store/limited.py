"""Runs functions in a child process with limits on time and memory, for third-party code that may never end.

A chat template or a pattern of a tokenizer is such code. A signal in this process cannot stop it: one call of a library
written in C or Rust may take hours and gigabytes, and the handler would run only afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from llmctl.store.border import summary

WALL_SECONDS: Final = 30.0
"""Limit of real time, which only a child that is stuck reaches; on a busy machine a child gets little CPU time."""
_PIPE: Final = 1 << 16


class LimitExceeded(Exception):
    """The function took too much time or memory; the message says which."""


def call(function: Callable[[], str], *, seconds: float, megabytes: int) -> str:
    """The text that `function` returns: see `Child`."""
    with Child(lambda _: function(), seconds=seconds, megabytes=megabytes) as child:
        return child("")


class Child:
    """A function from text to text in a child process, which is forked at the first call and again after a limit was
    exceeded. Each call may take `seconds` of CPU time, and all of them `megabytes` of memory in addition to this process's.

    Where processes cannot be forked (Windows), there are no limits.
    """

    def __init__(self, function: Callable[[str], str], *, seconds: float, megabytes: int) -> None:
        self._function, self._seconds, self._megabytes = function, seconds, megabytes
        self._process = self._owner = 0
        self._asking = self._answers = -1
        self._lock = threading.Lock()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __call__(self, text: str) -> str:
        """What the function returns. What it raises is raised here as a `RuntimeError` with its type and message.

        Raises `LimitExceeded`.
        """
        if not hasattr(os, "fork"):
            return self._function(text)
        with self._lock:
            answer = self._ask(json.dumps(text).encode() + b"\n")
            found: dict[str, str] = json.loads(answer) if answer.endswith(b"\n") else {}
            if "memory" in found or not found:
                self.close()
        if not found:
            raise LimitExceeded(f"takes more than {self._seconds:g} s")
        if "memory" in found:
            raise LimitExceeded(f"needs more than {self._megabytes} MB of memory")
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["text"]

    def close(self) -> None:
        """End the child process."""
        if self._process and self._owner == os.getpid():
            os.close(self._asking)
            os.close(self._answers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._process, 0)
        self._process = 0

    def _ask(self, line: bytes) -> bytes:
        """The line that the child answers; without its end if a limit ended the child."""
        if not self._process or self._owner != os.getpid():  # a fork of this process does not own the child
            self._fork()
        try:
            _write(self._asking, line)
            return self._read()
        except BrokenPipeError:
            return b""
        except BaseException:
            self.close()  # its answer would be taken for that of the next call
            raise

    def _fork(self) -> None:
        asked, asking = os.pipe()
        answers, answering = os.pipe()
        self._owner = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of threads; the child calls nothing that waits for one
            self._process = os.fork()
        if self._process == 0:
            self._serve(asked, answering)
        os.close(asked)
        os.close(answering)
        self._asking, self._answers = asking, answers

    def _read(self) -> bytes:
        pieces: list[bytes] = []
        end = time.monotonic() + WALL_SECONDS
        while select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
            piece = os.read(self._answers, _PIPE)
            pieces.append(piece)
            if not piece or piece.endswith(b"\n"):
                return b"".join(pieces)
        return b""

    def _serve(self, asked: int, answering: int) -> None:
        """Answer calls in the child process until the pipe is closed; never returns."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGPROF):
                signal.signal(number, signal.SIG_DFL)
            _close_all_but(asked, answering)
            _limit_memory(self._megabytes)
            with os.fdopen(asked, "rb") as calls:
                self._answer_each(calls, answering)
        finally:
            os._exit(0)

    def _answer_each(self, calls: IO[bytes], answering: int) -> None:
        for line in calls:
            random.seed(0)  # a template may draw: the same text each time
            signal.setitimer(signal.ITIMER_PROF, self._seconds)
            found: dict[str, Any]
            try:
                found = {"text": self._function(json.loads(line))}
            except MemoryError:
                found = {"memory": "exceeded"}
            except BaseException as error:  # a panic of Rust is no Exception
                found = {"error": summary(error)}
            answer = json.dumps(found).encode() + b"\n"
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(answering, answer)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _close_all_but(*kept: int) -> None:
    """Close what a child has inherited: sockets of a server would stay open as long as it lives."""
    edges = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for before, after in itertools.pairwise(edges):
        os.closerange(before + 1, after)


def _limit_memory(megabytes: int) -> None:
    """Let this process take so much memory in addition to what it has. Only Linux says what that is."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + megabytes * 1_000_000
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
