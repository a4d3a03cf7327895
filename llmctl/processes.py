"""Child processes end with their parent, even if it is killed: nobody reads their results, and they hold its files.

`multiprocessing` and torch start children in several ways; all of them pickle the configuration of the current process into
the child before its target. That is where the child learns of its parent, before it imports anything heavy.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import resource_tracker
from typing import Any, Final

SECONDS_BETWEEN_LOOKS: Final = 0.5
PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the kernel sends a signal when the parent ends."""
_KEY: Final = "llmctl"


def end_children_with_this_process() -> None:
    """Make every process that `multiprocessing` spawns from now on, and their children, end with their parent."""
    current: Any = multiprocessing.current_process()
    current._config[_KEY] = _EndWithParent()
    # The process that keeps track of semaphores inherits what is blocked: a terminal that closes would end it too early.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _EndWithParent:
    """Calls `end_with` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return _child_of, (os.getpid(),)


def _child_of(parent: int) -> _EndWithParent:
    end_with(parent)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it handles Ctrl-C itself, it ends without a traceback
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes: the parent stops its children itself
    return _EndWithParent()


def end_with(parent: int) -> None:
    """Kill this process when the process `parent` ends, at once if it has ended already.

    The kernel does it at once on Linux, but torch replaces the signal by an interrupt; a thread looks too.
    """
    kill_with_parent()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def kill_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends. Does nothing but on Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
