"""The process group of a run: joined before anything is written, and left at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from llmctl import errors
from llmctl.errors import EnvironmentFault, LlmctlError

ANSWER: Final = timedelta(hours=1)
"""How long processes wait for each other in a run: the main one may write a large model meanwhile. NCCL's default is ten
minutes."""
BACKENDS: Final = {"cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
"""By kind of accelerator; gloo carries what is in the CPU's memory, such as offloaded gradients. Others: torch's default."""


def join(seconds: float) -> None:
    """Meet the other processes that the environment names, RANK of WORLD_SIZE at MASTER_ADDR:MASTER_PORT.

    Raises `EnvironmentFault` where not all of them come within `seconds`.
    """
    from torch.distributed.rendezvous import rendezvous

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend: str | None = "gloo"
    if kind := torch.accelerator.current_accelerator(check_available=True):
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        backend = BACKENDS.get(kind.type)
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=timedelta(seconds=seconds))))
    except (dist.DistError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise EnvironmentFault(
            f"the {size} processes did not meet at {place} within {seconds:.0f} s: {str(error).splitlines()[0]}",
            hint="start all of them; MASTER_ADDR must be the address of process 0, reachable from all machines",
        ) from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ANSWER)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def from_main(make: Callable[[], Any]) -> Any:
    """What `make` returns, or raises as an `LlmctlError`, in the main process; the same in all of them."""
    if not dist.is_initialized():
        return make()
    made: list[Any] = [None, None]
    failed: LlmctlError | None = None
    if dist.get_rank() == 0:
        try:
            made = [make(), None]
        except LlmctlError as error:
            failed, made = error, [None, errors.encoded(error)]
    dist.broadcast_object_list(made)
    if failed is not None:
        raise failed
    if made[1] is not None:
        raise errors.decoded(made[1])
    return made[0]
