"""Where a run computes: device, precision, number of processes, through accelerate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

import psutil
import torch

from llmctl.errors import EnvironmentFault, UsageError
from llmctl.training import machine
from llmctl.types import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

THREADS: Final = "OMP_NUM_THREADS"
"""Threads of one process, by the name that torch and accelerate know."""


def has_accelerator() -> bool:
    return torch.accelerator.is_available()


def resolve_precision(requested: Literal["auto", "fp32", "bf16", "fp16"]) -> Precision:
    """`auto` is bf16 where the device multiplies it in hardware, else fp32.

    Raises `UsageError` for fp16: on a processor it is some forty times slower than fp32, and elsewhere small
    gradients vanish in it unless the loss is scaled, which is not done here.
    """
    if requested == "fp16":
        why = (
            "loses small gradients without loss scaling"
            if has_accelerator()
            else "is some 40 times slower than fp32 on a processor"
        )
        raise UsageError(f"fp16 {why}", hint="--precision bf16 or fp32")
    if requested != "auto":
        return requested
    if has_accelerator():
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if machine.has_bf16() else "fp32"


def accelerator(precision: Precision, *, processes_here: int = 1) -> Accelerator:
    """The accelerator of this process, checked to know of all the others."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = not has_accelerator()
    if world > 1 and on_cpu and not os.environ.get(THREADS):
        # The processes here share the cores. accelerate, where nobody said how many, says so with a warning.
        threads = max(1, (psutil.cpu_count(logical=False) or os.cpu_count() or 1) // max(1, processes_here))
        os.environ[THREADS] = str(threads)
        torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    made = Accelerator(cpu=on_cpu, mixed_precision={"fp32": "no", "bf16": "bf16"}[precision])
    if made.num_processes != world:
        raise EnvironmentFault(
            f"{world} processes were started but accelerate sees {made.num_processes}: each would train alone",
            hint="unset ACCELERATE_* in the environment",
        )
    return made
