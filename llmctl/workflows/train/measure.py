"""Measure speed and memory of a run by a few real steps, which are then discarded. Imports torch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmctl import environment
from llmctl.training import loop, machine
from llmctl.training.loop import Position
from llmctl.training.plan import Budget
from llmctl.types import Event, EventSink
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.forecast import Forecast, gib
from llmctl.workflows.train.learner import Learner

STEPS: Final = 8
"""Timed steps. One untimed step comes first, on the longest batch, to reach the peak of memory."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Speed and peak memory of the measured steps."""

    steps: int
    tokens: int
    seconds: float
    peak_memory_bytes: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self, made: Forecast) -> dict[str, Any]:
        """The measurement beside the forecast; seconds count training only, not evaluation or saving."""
        epoch = made.tokens_per_epoch / self.tokens_per_second if self.seconds else None
        return {
            "steps": self.steps,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds_per_epoch": _rounded(epoch),
            "seconds": _rounded(epoch * made.epochs if epoch is not None and made.epochs is not None else None),
            "peak_memory_bytes": self.peak_memory_bytes,
            "forecast_over_measured": round(made.memory.total / self.peak_memory_bytes, 3),
        }

    def summary(self, made: Forecast) -> str:
        """The same as one readable line."""
        facts = self.to_dict(made)
        epoch, total = facts["seconds_per_epoch"], facts["seconds"]
        times = [f"{_time(epoch)} per epoch"] if epoch is not None else []
        times += [f"{_time(total)} in total"] if total is not None else []
        return (
            f"{self.steps} steps at {self.tokens_per_second:,.0f} tokens/s: {', '.join(times)}; memory "
            f"{gib(self.peak_memory_bytes)}, forecast {facts['forecast_over_measured']:.2f} times as much"
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def measure_run(plan: TrainPlan, emit: EventSink) -> Measurement:
    """Run the steps in this process; leaves nothing on disk."""
    config = plan.config
    if text := environment.forget_launchers():
        emit(Event("note", {"text": text}))
    machine.keep_memory()
    with tempfile.TemporaryDirectory(prefix="llmctl-") as folder:
        learner = Learner(replace(plan, config=config.replace(out=Path(folder), processes=1, machines=1)), emit)
        longest = np.argsort(-learner.batches.lengths, kind="stable")[: config.batch_size]

        def batch_of(step: int) -> Any:
            return longest if step == 0 else learner.batches(step - 1)

        made = loop.fit(
            learner.strategy,
            learner.parts.train,
            batch_of,
            learner.optimizer,
            replace(learner.steps, budget=Budget(max_steps=STEPS + 1)),
            clip_norm=config.clip_norm,
            seed=config.seed,
            start=Position(),
            stop=lambda: False,
            prefetch=learner.prefetch,
        )
        first, *timed = [report.position for report in islice(made, STEPS + 1)]
        last = timed[-1]
    return Measurement(
        last.step - first.step, last.tokens - first.tokens, last.seconds - first.seconds, machine.peak_memory_bytes()
    )
