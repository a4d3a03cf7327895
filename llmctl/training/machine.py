"""CPU features, memory allocator and memory limits of this machine. Does not import torch."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4
RETURNED: Final = 2**20
"""Blocks of memory of this many bytes and more go back to the system under `return_memory`."""


@functools.cache
def has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions (AVX-512 BF16, AMX or Arm BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = next((line for line in flags.splitlines() if line.startswith(("flags", "Features"))), "").split()
    return any(name in found for name in ("avx512_bf16", "amx_bf16", "bf16"))


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile will call: `CXX`, else g++ (clang++ on macOS); None where it is not found."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def keep_memory() -> bool:
    """Make glibc keep freed memory between steps instead of returning it to the system and faulting it in again.

    Does not change results; trains small models 1.2 to 1.4 times as fast. Call before torch allocates. Returns whether
    the setting was applied.
    """
    return _mallopt({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def return_memory() -> bool:
    """Make glibc return large blocks to the system as soon as they are freed, for processes that hold parts of a model.

    They gather and free whole layers all the time. With blocks kept, or with glibc's own moving threshold, the gaps between
    them take about twice the memory of the parts (gpt2 with 50 M weights). Call before torch allocates.
    """
    return _mallopt({_M_MMAP_THRESHOLD: RETURNED})


def _mallopt(settings: Mapping[int, int]) -> bool:
    """Apply settings of glibc's allocator; returns whether they were applied."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in settings.items())


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes.

    Read from /proc if available: after exec, getrusage also counts the peak of the parent process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory_bytes() -> int:
    """Memory available to a new process, in bytes: the machine's, or the container's if that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    within = cgroup_free_bytes(Path("/sys/fs/cgroup"))
    return free if within is None else min(free, within)


def cgroup_free_bytes(group: Path) -> int | None:
    """Memory that a control group (version 2) can still use, in bytes; None if it has no limit.

    The group's usage includes the page cache. The kernel reclaims inactive pages before it kills a process, so they
    count as free.
    """
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    reclaimable = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
    return None if limit == "max" else max(0, int(limit) - max(0, used - reclaimable))
