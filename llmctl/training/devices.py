"""Compute resources of a run, through accelerate: device, precision and number of processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

import psutil
import torch

from llmctl.errors import EnvironmentFault, UsageError
from llmctl.training import machine, meeting
from llmctl.training.world import MEETING_SECONDS
from llmctl.types import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

THREADS: Final = "OMP_NUM_THREADS"
"""The environment variable for the threads of one process, read by torch and accelerate."""
TF32_SINCE: Final = (8, 0)
"""The compute capability of the first NVIDIA GPUs with TensorFloat-32 (Ampere)."""


def has_accelerator() -> bool:
    return torch.accelerator.is_available()


def exact_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that lacks it (Apple's GPUs, some of Intel's and Huawei's)."""
    if device.type == "xpu":
        return torch.float64 if torch.xpu.get_device_properties(device).has_fp64 else torch.float32
    return torch.float32 if device.type in ("mps", "npu") else torch.float64


def has_tf32(device: torch.device) -> bool:
    """Whether a device can multiply float32 in TensorFloat-32: NVIDIA GPUs since Ampere."""
    return (
        device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= TF32_SINCE
    )


def set_tf32(wanted: bool, device: torch.device) -> bool:
    """Let matrix products, convolutions and recurrent layers of float32 round their inputs to TensorFloat-32, or not, as they
    do by default in cuDNN. Returns whether `device` can."""
    used = wanted and has_tf32(device)
    torch.set_float32_matmul_precision("high" if used else "highest")
    torch.backends.cudnn.allow_tf32 = used
    return used


def resolve_precision(requested: Literal["auto", "fp32", "bf16", "fp16"]) -> Precision:
    """`auto` is bf16 if the hardware supports it, otherwise fp32.

    Raises `UsageError` for fp16: on a CPU it is about 40 times slower than fp32, and on other devices small gradients
    underflow without loss scaling, which is not implemented.
    """
    if requested == "fp16":
        why = (
            "loses small gradients without loss scaling"
            if has_accelerator()
            else "is about 40 times slower than fp32 on a CPU"
        )
        raise UsageError(f"fp16 {why}", hint="--precision bf16 or fp32")
    if requested != "auto":
        return requested
    if has_accelerator():
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if machine.has_bf16() else "fp32"


def accelerator(precision: Precision) -> Accelerator:
    """The accelerator of this process, which meets the others first. Raises `EnvironmentFault` if it does not see them all."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = not has_accelerator()
    if world > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if on_cpu and not os.environ.get(THREADS):
            # Local processes share the cores. accelerate warns if the number of threads is not set.
            threads = max(1, (psutil.cpu_count(logical=False) or os.cpu_count() or 1) // max(1, here))
            os.environ[THREADS] = str(threads)
            torch.set_num_threads(threads)
        if not torch.distributed.is_initialized():
            meeting.join(MEETING_SECONDS)
    AcceleratorState._reset_state(reset_partial_state=True)
    made = Accelerator(cpu=on_cpu, mixed_precision={"fp32": "no", "bf16": "bf16"}[precision])
    if made.num_processes != world:
        raise EnvironmentFault(
            f"{world} processes were started, but accelerate sees {made.num_processes}: each would train alone",
            hint="unset the environment variables ACCELERATE_*",
        )
    return made


def count() -> int:
    """The accelerators that this process may use."""
    return torch.accelerator.device_count() if has_accelerator() else 0
