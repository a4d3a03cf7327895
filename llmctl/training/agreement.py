"""Whether all processes of a run start from the same state, without which a sum of their gradients means nothing.

Machines that share no folder may have another checkpoint, other data or other settings; each process sends one number
for each, before the first step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from llmctl.errors import EnvironmentFault


def check(
    accelerator: Accelerator, *, step: int, settings: Mapping[str, Any], data: str, machine: int, run: str
) -> None:
    """Raise `EnvironmentFault` in every process where step, settings or data differ between any two of them.

    `data`: the content hash of the prepared data. `machine`: the rank of this machine. `run`: the run folder, for the hint.
    """
    same_settings = "start every machine with the same settings and version; only --machine-rank differs"
    numbers = (step, number_of(json.dumps(settings, sort_keys=True, default=str)), number_of(data))
    _compare(
        accelerator,
        machine,
        numbers,
        ("", "other settings", "other prepared data"),
        (_same(run), same_settings, "copy the prepared data from one machine to all others"),
    )


def check_weights(accelerator: Accelerator, weights: int, *, machine: int, run: str) -> None:
    """Raise `EnvironmentFault` in every process where `weights`, a number for the weights, differs."""
    _compare(accelerator, machine, (weights,), ("other weights",), (_same(run),))


def _same(run: str) -> str:
    return f"copy {run} to every machine, or to a folder that all of them share, and repeat the command with --resume"


def _compare(
    accelerator: Accelerator, machine: int, numbers: Sequence[int], what: Sequence[str], hints: Sequence[str]
) -> None:
    """Compare each number over processes; the one without a name is the step."""
    mine = torch.tensor([[machine, *numbers]], dtype=torch.int64, device=accelerator.device)
    rows: list[list[int]] = accelerator.gather(mine).tolist()
    for column, (name, hint) in enumerate(zip(what, hints, strict=True), start=1):
        other = next((row for row in rows if row[column] != rows[0][column]), None)
        if other is None:
            continue
        first, second = f"machine {rows[0][0]}", f"machine {other[0]}"
        message = (
            f"{second} has {name} than {first}"
            if name
            else f"{second} starts at step {other[1]:,}, {first} at step {rows[0][1]:,}"
        )
        raise EnvironmentFault(f"{message}: nothing was trained", hint=hint)


def number_of(text: str) -> int:
    return _signed(hashlib.sha256(text.encode()).digest())


def _signed(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little", signed=True)


def number_of_weights(model: nn.Module) -> int:
    """A number for the bytes of all weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return _signed(found.digest())
