"""One process of a training run: iterate the loop, evaluate, save, log. Imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from llmctl.store import runs
from llmctl.training import loop, machine
from llmctl.training import plan as planning
from llmctl.training.checkpoints import BestCheckpoint, TrainingState
from llmctl.training.history import History
from llmctl.training.loop import Position, Report
from llmctl.training.trackers import Trackers
from llmctl.types import Event, EventSink
from llmctl.workflows.train import publish, validate
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.learner import Learner
from llmctl.workflows.train.saving import Saver


class TrainingRun:
    """The state of a run; `go` trains. Every process has one, only the main process writes files."""

    def __init__(self, plan: TrainPlan, emit: EventSink) -> None:
        self.config, self.plan, self.emit = plan.config, plan, emit
        self.learner = Learner(plan, emit)
        trackers = Trackers(plan.config.tracker, plan.config.out)
        self.history = History(plan.config.out, trackers) if self.learner.main else None
        self.saver = Saver(self.learner, self.history, emit)
        self.state = TrainingState(Position(), keyed=self.learner.batches.keyed)
        self._was_stopped = False

    def go(self, stop: Callable[[], bool]) -> dict[str, Any]:
        """Train until budget or patience runs out or `stop` returns True; returns the fields of the JSON document."""
        learner = self.learner
        self.state = self.saver.resume() or self.state
        self.learner.batches.keyed = self.state.keyed
        if text := planning.long_warmup(learner.steps, self.config.schedule):
            self.emit(Event("warning", {"text": text}))
        trainable = "" if learner.trainable == learner.parameters else f" ({learner.trainable:,} trainable)"
        self._report(
            f"{self.config.model.name}: {learner.parameters:,} parameters{trainable}, {learner.precision}, "
            f"{len(learner.parts.train):,} examples, {learner.steps.steps_per_epoch:,} steps per epoch"
        )
        window = list(self.state.window)
        first = self.state.position
        if self.history is not None:
            settings = self.plan.recorded.model_dump(mode="json", exclude_none=True)
            self.history.trackers.start(settings, resumed_at=first.step if self.saver.resumed_from else None)
        with self.history or contextlib.nullcontext():
            steps = loop.fit(
                learner.strategy,
                learner.parts.train,
                learner.batches,
                learner.optimizer,
                learner.steps,
                clip_norm=self.config.clip_norm,
                seed=self.config.seed,
                start=first,
                stop=stop,
                prefetch=learner.prefetch,
            )
            try:
                for report in self._until_end(steps):
                    window.append(report.loss)
                    done = report.progress >= 1.0
                    self._log_step(report, window, done=done)
                    if self._after_step(report, done=done):
                        break
            except loop.Diverged as error:
                raise learner.diverged(error) from error
            finished = not self._was_stopped
            if finished and self.state.evaluated_step != self.state.position.step:
                self._evaluate(self.state.position)
        if finished and self.saver.resumed_from and self.state.position == first:
            step = f"step {first.step:,}"
            self._report(
                f"the run already finished at {step}: to train further, add a larger --max-steps, --epochs, … to --resume"
            )
        self.saver.save(self.state)
        if finished:
            publish.publish(learner, self.state, self._facts())
        return self._fields(first, finished=finished)

    def _until_end(self, steps: Generator[Report, None, bool]) -> Iterator[Report]:
        """The steps; none if patience has already run out. Records whether the run was stopped before its budget."""
        if self._out_of_patience:
            return
        self._was_stopped = yield from steps

    def _after_step(self, report: Report, *, done: bool) -> bool:
        """Evaluate and save where due; returns whether patience has run out."""
        before, after = report.progress_before, report.progress
        if done or self.learner.steps.is_due(self.config.eval_every, report.position.step, before, after):
            self._evaluate(report.position)
        if done or self.saver.is_due(self.state, before, after):
            self.saver.save(self.state)
        return self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.state.waited >= self.config.patience

    def _log_step(self, report: Report, window: list[float], *, done: bool) -> None:
        position, logged = report.position, report.position.step % self.config.log_every == 0
        mean, pending = sum(window) / len(window), () if logged else tuple(window)
        self.state = replace(self.state, position=position, train_loss=mean, window=pending, lr=report.lr)
        speed = position.tokens / position.seconds if position.seconds else 0.0
        fields = {"loss": self.state.train_loss, "lr": report.lr, "tokens_per_second": speed}
        self.emit(Event("train", {"stage": f"step {position.step:,}", "done": report.progress, "total": 1.0, **fields}))
        if (logged or done) and self.history is not None:
            self.history.add(
                {
                    "step": position.step,
                    "epoch": round(position.step / self.learner.steps.steps_per_epoch, 4),
                    "tokens": position.tokens,
                    "loss": self.state.train_loss,
                    "lr": report.lr,
                    "grad_norm": report.grad_norm,
                    **report.scores,
                    "tokens_per_second": round(speed, 1),
                    "seconds": round(position.seconds, 3),
                }
            )
        if logged:
            window.clear()

    def _evaluate(self, position: Position) -> None:
        """Score the validation split; save a checkpoint if it is the best so far."""
        self.state = replace(self.state, evaluated_step=position.step)
        scores = validate.scores(self.learner)
        if scores is None:
            return
        self.state = replace(self.state, validation=scores)
        value = scores[self.plan.best_score]
        better = validate.is_better(self.plan, value, self.state.best)
        if better:
            self.state = replace(self.state, best=BestCheckpoint(position.step, self.plan.best_score, value), waited=0)
        else:
            self.state = replace(self.state, waited=self.state.waited + 1)
        if self.history is not None:
            row = {"step": position.step, "tokens": position.tokens, "seconds": round(position.seconds, 3)}
            self.history.add(row | {f"validation_{name}": each for name, each in scores.items()})
        shown = "  ".join(f"{name} {each:.4g}" for name, each in scores.items())
        self._report(f"step {position.step:,}: validation {shown}{'  (best)' if better else ''}", name="evaluation")
        if better:
            self.saver.save(self.state)

    def _facts(self) -> dict[str, Any]:
        best = self.state.best
        return {
            "steps": self.state.position.step,
            "tokens": self.state.position.tokens,
            "train_loss": runs.without_nan(self.state.train_loss),
            "validation": runs.without_nan(self.state.validation),
            "best": {"step": best.step, "metric": best.metric, "value": best.value} if best else None,
            "parameters": self.learner.parameters,
            "learned_parameters": self.learner.trainable,
            "precision": self.learner.precision,
            "seconds": round(self.state.position.seconds, 3),
        }

    def _fields(self, first: Position, *, finished: bool) -> dict[str, Any]:
        last = self.state.position
        # A run that was finished already makes no step: its speed is that of the whole.
        begin = first if last.seconds > first.seconds else Position()
        seconds = last.seconds - begin.seconds
        return {
            "finished": finished,
            **self._facts(),
            "tokens_per_second": round((last.tokens - begin.tokens) / seconds, 1) if seconds > 0 else 0.0,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "model": str(self.config.out / "model"),
            "run": str(self.config.out),
            "resumed_from": self.saver.resumed_from,
        }

    def _report(self, text: str, *, name: str = "note") -> None:
        self.emit(Event(name, {"text": text}))
