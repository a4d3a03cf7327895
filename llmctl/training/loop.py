"""The training loop, visible: a generator that yields once an optimizer step.

Evaluating, saving and stopping is ordinary code of the caller. The loss of a step is a sum over the target
tokens of all its micro-batches on all processes, divided once by their number; so (batch 16), (4 x 4 accumulated)
and (2 processes x 8) are the same step, also where the last batch of an epoch is smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from llmctl.errors import DivergedError
from llmctl.store.border import running
from llmctl.training import optimizers
from llmctl.training.objectives import Objective
from llmctl.training.plan import StepPlan
from llmctl.types import Examples


class Diverged(DivergedError):
    """A step that is not finite, with the examples of its batch."""

    def __init__(self, message: str, step: int, indices: NDArray[np.int64]) -> None:
        super().__init__(message, hint="a smaller --lr, more warm-up, or precision fp32")
        self.step, self.indices = step, indices


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: optimizer steps done, tokens seen, seconds spent."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """One optimizer step, as the whole run over all processes sees it. `loss` in nats per target token."""

    position: Position
    loss: float
    lr: float
    grad_norm: float
    progress_before: float
    progress: float


def fit(
    objective: Objective,
    examples: Examples,
    batch_of: Callable[[int], NDArray[np.int64]],
    optimizer: torch.optim.Optimizer,
    plan: StepPlan,
    accelerator: Accelerator,
    *,
    clip_norm: float,
    seed: int,
    start: Position,
    stop: Callable[[], bool],
) -> Generator[Report, None, bool]:
    """Train from `start` until the budget is used up or any process wants to `stop`; returns whether one wanted to.

    `objective` maps a micro-batch to the summed loss of its targets and counts them; its parameters that require a
    gradient are trained. `batch_of(step)` gives the global batch's example indices. Raises `DivergedError` before a step that is not finite
    is applied; the weights then are those of the last good step.
    """
    position, clock = start, time.monotonic() - start.seconds
    lengths = examples.lengths()
    while True:
        before = plan.budget.progress(position.step, position.tokens, position.seconds)
        if before >= 1.0:
            return False
        indices = batch_of(position.step)
        micro = _micro_batches(indices, lengths, plan.micro_batch_size, accelerator)
        epoch = position.step // plan.steps_per_epoch
        arrays = [examples.arrays(part, epoch) for part in micro]
        loss_tokens = sum(map(objective.target_count, arrays))
        tokens = sum(map(objective.token_count, arrays))
        loss_tokens, tokens, stops = map(int, _sums(accelerator, loss_tokens, tokens, stop()))
        if stops:
            return True
        lr = plan.lr(position.step, before)
        optimizers.set_lr(optimizer, lr)
        # The draw of dropout is a function of (seed, step, process) too: nothing to save, nothing to restore.
        torch.manual_seed(hash((seed, position.step, accelerator.process_index)) & 0x7FFFFFFF)
        loss = _accumulate(objective, arrays, max(1, loss_tokens), accelerator)
        norm = _reduce_and_clip(objective, accelerator, clip_norm)
        if not np.isfinite(loss) or not np.isfinite(norm):
            what = f"the loss is {loss}" if not np.isfinite(loss) else f"the gradient's norm is {norm}"
            raise Diverged(f"{what} at step {position.step + 1}; the step is not applied", position.step + 1, indices)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # What is due now depends on the clock: were each process to read its own, one would evaluate and the other not.
        (seconds,) = _sums(accelerator, time.monotonic() - clock if accelerator.is_main_process else 0.0)
        position = Position(position.step + 1, position.tokens + tokens, seconds)
        after = plan.budget.progress(position.step, position.tokens, position.seconds)
        yield Report(position, loss, lr, norm, before, after)
        # What the caller does between two steps (evaluating, saving) is not training time.
        clock = time.monotonic() - position.seconds


def _micro_batches(
    indices: NDArray[np.int64], lengths: NDArray[np.int64], size: int, accelerator: Accelerator
) -> list[list[int]]:
    """This process's part of a global batch, sorted by length so that little is padded, cut into micro-batches."""
    mine = indices[accelerator.process_index :: accelerator.num_processes]
    mine = mine[np.argsort(-lengths[mine], kind="stable")]
    return [mine[first : first + size].tolist() for first in range(0, len(mine), size)]


def _sums(accelerator: Accelerator, *mine: float) -> list[float]:
    """Each number summed over all processes."""
    if accelerator.num_processes == 1:
        return [float(each) for each in mine]
    total: list[float] = accelerator.reduce(
        torch.tensor(mine, dtype=torch.float64, device=accelerator.device), "sum"
    ).tolist()
    return total


def _accumulate(
    objective: Objective, arrays: Sequence[dict[str, NDArray[Any]]], loss_tokens: int, accelerator: Accelerator
) -> float:
    """Gradients of all micro-batches; returns the loss of the step in nats per target token, over all processes."""
    losses = []
    # With several processes an error may be of another process instead of the model.
    alone = accelerator.num_processes == 1
    for each in arrays:
        batch = to_tensors(each, accelerator.device)
        with accelerator.autocast(), running(getattr(objective, "model", None) if alone else None):
            loss = objective(batch) / loss_tokens
        loss.backward()
        losses.append(loss.detach())
    return _sums(accelerator, _total(losses))[0]


def _total(losses: Sequence[Tensor]) -> float:
    """The sum of scalars on a device, in double precision and in their order; the device is waited for once."""
    total = 0.0
    for each in torch.stack(list(losses)).tolist() if losses else []:
        total += each
    return total


def to_tensors(arrays: dict[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def _reduce_and_clip(model: nn.Module, accelerator: Accelerator, clip_norm: float) -> float:
    """Sum gradients over processes, clip their norm; returns the norm before clipping."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if accelerator.num_processes > 1:
        _sum_gradients(weights, accelerator)
    gradients = [weight for weight in weights if weight.grad is not None]
    norm: Tensor = nn.utils.clip_grad_norm_(gradients, clip_norm if clip_norm > 0 else float("inf"))
    return float(norm)


def _sum_gradients(weights: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """One reduction of everything. A process whose share of a small last batch is empty adds zeros."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    flat = accelerator.reduce(flat, "sum")
    for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        assert weight.grad is not None
        weight.grad.copy_(part.view_as(weight))


@torch.no_grad()
def validation_loss(
    objective: Objective, examples: Examples, accelerator: Accelerator, *, batch_size: int
) -> tuple[float, int]:
    """Mean loss in nats per target token over a split, and how many tokens that is. Sums first, divides once."""
    objective.eval()
    order = np.argsort(-examples.lengths(), kind="stable")
    losses: list[Tensor] = []
    loss_tokens = 0
    for first in range(0, len(order), batch_size * accelerator.num_processes):
        block = order[first : first + batch_size * accelerator.num_processes]
        mine = block[accelerator.process_index :: accelerator.num_processes].tolist()
        if mine:
            arrays = examples.arrays(mine)
            with accelerator.autocast():
                losses.append(objective(to_tensors(arrays, accelerator.device)))
            loss_tokens += objective.target_count(arrays)
    total, count = _sums(accelerator, _total(losses), loss_tokens)
    objective.train()
    return (total / count if count else float("nan")), int(count)
