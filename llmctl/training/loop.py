"""The training loop, visible: a generator that yields once an optimizer step.

Evaluating, saving and stopping is ordinary code of the caller. The loss of a step is a sum over the target
tokens of all its micro-batches on all processes, divided once by their number; so (batch 16), (4 x 4 accumulated)
and (2 processes x 8) are the same step, also where the last batch of an epoch is smaller.

The device is waited for once a step, and the processes agree once a step: one reduction carries loss, counts, stop and clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmctl.errors import DivergedError
from llmctl.store.border import running
from llmctl.training import devices, optimizers
from llmctl.training.parallel import NORM_SPARE, Strategy
from llmctl.training.plan import StepPlan
from llmctl.training.prefetch import Ahead
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
    scores: Mapping[str, float]
    """Other scores of the objective, per target."""


@dataclass(frozen=True, slots=True)
class Share:
    """This process's part of a global batch."""

    indices: NDArray[np.int64]
    """The global batch."""
    micro_batches: Sequence[dict[str, Tensor]]
    targets: int
    tokens: int


def fit(
    strategy: Strategy,
    examples: Examples,
    batch_of: Callable[[int], NDArray[np.int64]],
    optimizer: torch.optim.Optimizer,
    plan: StepPlan,
    *,
    clip_norm: float,
    seed: int,
    start: Position,
    stop: Callable[[], bool],
    prefetch: int = 0,
) -> Generator[Report, None, bool]:
    """Train from `start` until the budget is used up or any process wants to `stop`; returns whether one wanted to.

    The objective of `strategy` maps a micro-batch to the summed loss of its targets and counts them; its parameters that
    require a gradient are trained. `batch_of(step)` gives the global batch's example indices. `prefetch`: batches to build
    ahead. Raises `DivergedError` before a step that is not finite is applied; the weights then are those of the last good
    step.
    """
    position, clock = start, time.monotonic() - start.seconds
    lengths = examples.lengths()

    def share(step: int) -> Share:
        return _share(strategy, examples, lengths, batch_of(step), plan, step // plan.steps_per_epoch)

    stops = False
    with Ahead(share, depth=prefetch) as share_of:
        while True:
            before = plan.budget.progress(position.step, position.tokens, position.seconds)
            if before >= 1.0:
                return False
            # Several processes learn of a stop by the reduction of a step, so that all of them end after the same one.
            if stops or (strategy.alone and stop()):
                return True
            mine = share_of(position.step)
            lr = plan.lr(position.step, before)
            optimizers.set_lr(optimizer, lr)
            # The draw of dropout is a function of (seed, step, process) too: nothing to save, nothing to restore.
            torch.manual_seed(hash((seed, position.step, strategy.rank)) & 0x7FFFFFFF)
            losses, sums = _accumulate(strategy, mine)
            seconds = time.monotonic() - clock
            if strategy.alone:
                loss, norm = _clip(strategy, losses, clip_norm)
                tokens, scores = mine.tokens, _means(strategy, sums, mine.targets)
            else:
                loss, norm, tokens, stops, seconds = _agree(strategy, losses, mine, clip_norm, stop(), seconds)
                scores = _means(strategy, sums, mine.targets)
            step = position.step + 1
            if not np.isfinite(loss) or not np.isfinite(norm):
                what = f"the loss is {loss}" if not np.isfinite(loss) else f"the gradient's norm is {norm}"
                raise Diverged(f"{what} at step {step}; the step is not applied", step, mine.indices)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            position = Position(step, position.tokens + tokens, seconds)
            after = plan.budget.progress(position.step, position.tokens, position.seconds)
            left = time.monotonic()
            yield Report(position, loss, lr, norm, before, after, scores)
            # What the caller does between two steps (evaluating, saving) is not training time.
            clock += time.monotonic() - left


def _share(
    strategy: Strategy,
    examples: Examples,
    lengths: NDArray[np.int64],
    indices: NDArray[np.int64],
    plan: StepPlan,
    epoch: int,
) -> Share:
    """This process's part of a global batch, sorted by length so that little is padded, cut into micro-batches.

    Every process has as many micro-batches as the largest part needs; those it lacks have no targets.
    """
    objective, size = strategy.objective, plan.micro_batch_size
    mine = indices[strategy.rank :: strategy.processes]
    mine = mine[np.argsort(-lengths[mine], kind="stable")]
    arrays = [examples.arrays(mine[first : first + size].tolist(), epoch) for first in range(0, len(mine), size)]
    targets, tokens = sum(map(objective.target_count, arrays)), sum(map(objective.token_count, arrays))
    most = -(-len(indices) // strategy.processes)
    for _ in range(len(arrays), -(-most // size)):
        arrays.append(objective.without_targets(examples.arrays(indices[:1].tolist(), epoch)))
    return Share(indices, [to_tensors(each, strategy.device) for each in arrays], targets, tokens)


def to_tensors(arrays: dict[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """Tensors in memory that `device` can copy from while it computes."""
    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: each.pin_memory() for name, each in found.items()} if device.type == "cuda" else found


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: each.to(device, non_blocking=True) for name, each in batch.items()}


def _accumulate(strategy: Strategy, mine: Share) -> tuple[list[Tensor], list[Tensor]]:
    """Make the gradients of all micro-batches; returns their losses and the sums of the objective's other scores.

    One process knows the targets of the whole step and divides each loss by them. Several learn their number afterwards.
    """
    losses: list[Tensor] = []
    sums: list[Tensor] = []
    divisor = max(1, mine.targets) if strategy.alone else 1
    # With several processes an error may be of another process instead of the model.
    model = getattr(strategy.objective, "model", None) if strategy.alone else None
    for number, each in enumerate(mine.micro_batches, start=1):
        batch = on_device(each, strategy.device)
        with strategy.accumulating(last=number == len(mine.micro_batches)):
            with strategy.accelerator.autocast(), running(model):
                loss = strategy.module(batch) / divisor
            loss.backward()
        losses.append(loss.detach())
        if strategy.objective.reported:
            sums.append(strategy.objective.sums)
    return losses, sums


def _means(strategy: Strategy, sums: Sequence[Tensor], targets: int) -> dict[str, float]:
    """The objective's scores besides the loss, per target, over all processes; of most objectives none."""
    names = strategy.objective.reported
    if not names:
        return {}
    *totals, count = strategy.sums(*torch.stack(list(sums)).sum(0).tolist(), targets)
    return {name: total / max(1.0, count) for name, total in zip(names, totals, strict=True)}


def _clip(strategy: Strategy, losses: Sequence[Tensor], clip_norm: float) -> tuple[float, float]:
    """Clip the gradients; returns the loss in nats per target token and the norm before clipping."""
    norm = strategy.clip(clip_norm)
    *values, norm_value = torch.stack([*losses, norm.to(losses[0])]).tolist()
    return _total(values), norm_value


def _total(values: Sequence[float]) -> float:
    """The sum in order. Python's own `sum` compensates for rounding since 3.12, so it would depend on the version."""
    total = 0.0
    for each in values:
        total += each
    return total


def _agree(
    strategy: Strategy, losses: Sequence[Tensor], mine: Share, clip_norm: float, stop: bool, seconds: float
) -> tuple[float, float, int, bool, float]:
    """Scale and clip the gradients, of which the wrapper has made the mean over processes.

    Returns loss in nats per target token, norm before clipping, tokens, whether any process wants to stop, and the clock of
    the main process: what is due follows from it, and were each process to read its own, one would evaluate and another not.
    """
    exact = devices.exact_float(strategy.device)
    loss = torch.stack(list(losses)).to(exact).sum()
    rest = torch.tensor(
        [mine.targets, mine.tokens, stop, seconds if strategy.rank == 0 else 0.0], dtype=exact, device=strategy.device
    )
    totals: Tensor = strategy.accelerator.reduce(torch.cat([loss[None], rest]), "sum")
    norm = strategy.norm().to(totals)
    loss_sum, targets, tokens, stops, main_seconds, norm_value = torch.cat([totals, norm[None]]).tolist()
    to_sum = strategy.processes / max(1.0, targets)
    norm_value *= to_sum
    factor = min(1.0, clip_norm / (norm_value + NORM_SPARE)) if clip_norm > 0 else 1.0
    strategy.scale(to_sum * factor)
    return loss_sum / max(1.0, targets), norm_value, int(tokens), bool(stops), main_seconds


@torch.no_grad()
def validation_loss(strategy: Strategy, examples: Examples, *, batch_size: int) -> tuple[float, int, dict[str, float]]:
    """Mean loss per target over a split, the number of targets, and the objective's other scores. Sums first, divides
    once. For likelihoods in nats per token."""
    objective, processes = strategy.objective, strategy.processes
    objective.eval()
    order = np.argsort(-examples.lengths(), kind="stable")
    losses: list[Tensor] = []
    sums: list[Tensor] = []
    targets = 0
    for first in range(0, len(order), batch_size * processes):
        block = order[first : first + batch_size * processes]
        mine = block[strategy.rank :: processes].tolist()
        arrays = examples.arrays(mine) if mine else objective.without_targets(examples.arrays(block[:1].tolist()))
        with strategy.accelerator.autocast():
            losses.append(objective(on_device(to_tensors(arrays, strategy.device), strategy.device)))
        if objective.reported:
            sums.append(objective.sums)
        targets += objective.target_count(arrays)
    strategy.release()
    total, count = strategy.sums(_total(torch.stack(losses).tolist() if losses else ()), targets)
    objective.train()
    return (total / count if count else float("nan")), int(count), _means(strategy, sums, targets)
