"""Tensors of a run of several processes on disk: each process writes its part (`torch.distributed.checkpoint`), as
safetensors, and any number of processes reads them, also from a file that holds whole tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llmctl.errors import IntegrityError

Tensors = Mapping[str, Tensor]


def write(folder: Path, tensors: Tensors) -> None:
    """Write the parts that this process holds; every process calls it. What all of them hold is written once.

    Raises what one of the processes met, such as a full disk, in all of them.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise _first(error) from error


def read(folder: Path, tensors: Tensors, *, together: bool) -> None:
    """Read from `folder` into the tensors; `together`: every process calls it, for its parts.

    Raises `IntegrityError` for a tensor that is missing or of another shape.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as `together` says
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not together)
    except (CheckpointException, RuntimeError, ValueError, AssertionError) as error:
        cause = _first(error) if isinstance(error, CheckpointException) else error
        if isinstance(cause, OSError):
            raise cause from error
        text = next(iter(str(cause).splitlines()), "")
        raise IntegrityError(f"the checkpoint does not fit the model: {text}", where=str(folder)) from error


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the files of `folder`."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found: Mapping[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(each.size) for name, each in found.items()}


def whole(tensor: Any) -> Tensor:
    """The tensor of which this process may hold a part; every process calls it."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def _first(error: Any) -> BaseException:
    """What the first process that failed has met."""
    failure: BaseException = next(iter(error.failures.values()))[0]
    return failure
