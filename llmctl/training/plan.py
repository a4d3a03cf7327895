"""The numbers of a run that follow from its configuration and its data by arithmetic: budget, batch sizes, schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmctl.training.spec import Schedule

WARMUP_SHARE = 0.05
"""Fraction of the budget used for warm-up when `warmup_steps` is not given."""
TENTHS = 10
"""A run is evaluated this many times, at equal fractions of its budget, when `eval_every` is not given."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a run; it ends when the first of them is reached."""

    max_steps: int | None
    max_tokens: int | None = None
    max_seconds: float | None = None

    def progress(self, steps: int, tokens: int, seconds: float) -> float:
        """Fraction of the budget used, 0 to 1."""
        fractions = [0.0]
        if self.max_steps is not None:
            fractions.append(steps / self.max_steps)
        if self.max_tokens is not None:
            fractions.append(tokens / self.max_tokens)
        if self.max_seconds is not None:
            fractions.append(seconds / self.max_seconds)
        return min(1.0, max(fractions))


def budget(
    *,
    steps_per_epoch: int,
    epochs: float | None,
    max_steps: int | None,
    max_tokens: int | None,
    max_seconds: float | None,
) -> Budget:
    """The budget of a run; whichever limit is reached first ends it."""
    limits = [max_steps] if max_steps is not None else []
    if epochs is not None:
        limits.append(max(1, math.ceil(epochs * steps_per_epoch)))
    return Budget(min(limits) if limits else None, max_tokens, max_seconds)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The derived settings of a run."""

    budget: Budget
    micro_batch_size: int
    steps_per_epoch: int
    learning_rate: float
    schedule: Schedule
    warmup_steps: int | None
    """None: a fraction of the budget, because the number of steps is not known in advance."""
    eval_every: int | None
    save_every: int | None

    def lr(self, step: int, progress: float) -> float:
        """The learning rate at step `step` (from 0); `progress` is the fraction of the budget used before it."""
        peak, low = self.learning_rate, self.schedule.min_lr
        if self.warmup_steps is None:
            warm = min(1.0, max(progress, WARMUP_SHARE / 20) / WARMUP_SHARE)
        else:
            warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule.name == "constant":
            return peak * warm
        left = 1.0 - progress if self.schedule.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return min(peak * warm, low + (peak - low) * left)

    def is_due(self, every: int | None, step: int, before: float, after: float) -> bool:
        """Whether an action is due after step `step`: every `every` steps or, if None, at every tenth of the budget.

        `before` and `after`: progress before and after the step.
        """
        if every is not None:
            return step % every == 0
        return math.floor(after * TENTHS) > math.floor(before * TENTHS)


def jump(before: StepPlan, now: StepPlan, used: tuple[int, int, float], rate: float) -> str | None:
    """A warning where a resumed run has another budget, which its schedule spans, so that the learning rate jumps.

    `used`: steps, tokens and seconds so far. `rate`: the learning rate of the last step.
    """
    step = used[0]
    rates = [each.lr(step, each.budget.progress(*used)) for each in (before, now)]
    if now.budget.progress(*used) >= 1.0 or math.isclose(*rates, rel_tol=1e-6):
        return None
    return (
        f"the learning rate jumps from {rate:.3g} at step {step:,} to {rates[1]:.3g}: its schedule now spans the new "
        "budget; a run that had this budget from the beginning would end with other weights"
    )


def long_warmup(steps: StepPlan, schedule: Schedule) -> str | None:
    """A warning where the warm-up is longer than the run."""
    warmup, most = schedule.warmup_steps, steps.budget.max_steps
    if warmup is None or most is None or warmup <= most:
        return None
    return (
        f"the warm-up of {warmup:,} steps is longer than the run of {most:,}: the learning rate never reaches "
        f"{steps.learning_rate:.3g}; lower schedule.warmup_steps, or leave it out"
    )


def plan(
    *,
    run_budget: Budget,
    batch_size: int,
    micro_batch_size: int | None,
    world: int,
    steps_per_epoch: int,
    learning_rate: float,
    schedule: Schedule,
    eval_every: int | None,
    save_every: int | None,
) -> StepPlan:
    """The plan of a run on `world` processes."""
    share = -(-batch_size // world)
    warmup = schedule.warmup_steps
    if warmup is None and run_budget.max_steps is not None:
        warmup = min(200, max(1, int(run_budget.max_steps * WARMUP_SHARE)))
    return StepPlan(
        budget=run_budget,
        micro_batch_size=min(micro_batch_size or share, share),
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_steps=warmup,
        eval_every=eval_every,
        save_every=save_every if save_every is not None else eval_every,
    )
