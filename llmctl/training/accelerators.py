"""The accelerators of this machine, found without torch, for forecasts: their number, free memory and bfloat16."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

QUERY: Final = ("index", "uuid", "name", "memory.free", "compute_cap")
BF16_SINCE: Final = 8.0
"""The compute capability of the first NVIDIA GPUs with bfloat16 (Ampere)."""
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator with memory of its own. None: not known without torch."""

    name: str
    free_bytes: int | None = None
    bf16: bool | None = None


def found() -> tuple[Device, ...]:
    """The accelerators that a process started here may use; empty if all work is the CPU's."""
    if tool := shutil.which("nvidia-smi"):
        command = [tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return ()
        if done.returncode == 0:
            return described(done.stdout, os.environ)
    if Path("/dev/kfd").exists():  # AMD's driver
        return (Device("AMD GPU"),)
    return ()


def described(table: str, environment: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices in the answer of nvidia-smi to `QUERY`, those that CUDA_VISIBLE_DEVICES names."""
    rows = [[each.strip() for each in line.split(",")] for line in table.splitlines()]
    rows = [row for row in rows if len(row) == len(QUERY)]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        by_name = {name: row for row in rows for name in (row[0], row[1])}
        names = [each.strip() for each in visible.split(",") if each.strip()]
        rows = [by_name[each] for each in names if each in by_name]
    return tuple(Device(row[2], _bytes(row[3]), _number(row[4]) >= BF16_SINCE) for row in rows)


def _number(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def _bytes(text: str) -> int | None:
    return int(text) * MIB if text.isdigit() else None


def least_free(devices: Sequence[Device]) -> int | None:
    """The free memory of the fullest device, in bytes; None if it is not known."""
    known = [each.free_bytes for each in devices if each.free_bytes is not None]
    return min(known) if len(known) == len(devices) and known else None
