"""The process group of a run: joined before anything is written, and left at the end. A process that the others wait for
sends them the error with which it ended."""

from __future__ import annotations

import contextlib
import json
import os
import time
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
_STORE: Any = dist.TCPStore  # type: ignore[attr-defined]
REFUSAL_SECONDS: Final = 60
"""How long a process that refuses to train waits for the others to hear of it."""
_REFUSAL, _HEARD = "llmctl/refusal", "llmctl/heard"
"""Keys of the store where the processes meet: why the first of them does not train, empty if it does; how many know."""


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
        if rank == 0:
            store.set(_REFUSAL, "")
        else:
            _raise_refusal(store)
    except (dist.DistError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise EnvironmentFault(
            f"the {size} processes did not meet at {place} within {seconds:.0f} s: {str(error).splitlines()[0]}",
            hint="start all of them; MASTER_ADDR must be the address of process 0, reachable from all machines",
        ) from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ANSWER)


def refuse(error: LlmctlError, host: str, port: int, others: int, listener: int) -> None:
    """Send the error to `others` processes, which meet this one at HOST:PORT, where the descriptor `listener` listens;
    returns once all of them know, at the latest after `REFUSAL_SECONDS`."""
    until = time.monotonic() + REFUSAL_SECONDS
    with contextlib.suppress(dist.DistError):
        store = _STORE(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener)
        store.set(_REFUSAL, json.dumps(errors.encoded(error)))
        while store.add(_HEARD, 0) < others and time.monotonic() < until:
            time.sleep(0.05)


def refuse_too(host: str, port: int) -> None:
    """Let the process at HOST:PORT, which may be about to `refuse`, know that this one does not train either."""
    with contextlib.suppress(dist.DistError):
        _STORE(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=2)).add(_HEARD, 1)


def hear(host: str, port: int, seconds: float) -> None:
    """Wait for machine 0 at HOST:PORT. Raises the error with which it refuses to train, `DistError` if it does not come."""
    store = _STORE(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds))
    time.sleep(0.5)  # what torch's own launcher opens there has no such key
    if store.check([_REFUSAL]):
        _raise_refusal(store)


def _raise_refusal(store: Any) -> None:
    if refusal := store.get(_REFUSAL):
        store.add(_HEARD, 1)
        raise errors.decoded(json.loads(refusal))


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
