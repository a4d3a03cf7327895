"""One process of a training run: assemble its parts, iterate the loop, evaluate, save. Imports torch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from llmctl.data.batches import Batches
from llmctl.errors import DivergedError
from llmctl.models import adapters, short_attention
from llmctl.store import atomic, runs
from llmctl.training import agreement, checkpoints, devices, loop, machine, objectives, optimizers, plots
from llmctl.training import plan as planning
from llmctl.training.checkpoints import BestCheckpoint, TrainingState
from llmctl.training.history import History
from llmctl.training.loop import Position, Report
from llmctl.types import Event, EventSink
from llmctl.workflows.train import assemble, publish, resume, validate
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.spec import TrainConfig

SAVE_SECONDS: Final = 600.0
"""Without `save_every`, also write a checkpoint this long after the last one."""


class TrainingRun:
    """The state of a run; `go` trains. Every process has one, only the main process writes files."""

    def __init__(self, plan: TrainPlan, emit: EventSink) -> None:
        config = plan.config
        self.config, self.plan, self.emit = config, plan, emit
        self.out = config.out
        precision = devices.resolve_precision(config.precision)
        self.accelerator = devices.accelerator(precision, processes_here=config.processes)
        self.main = self.accelerator.is_main_process
        torch.manual_seed(config.seed)
        self.parts = assemble.assemble(plan, emit if self.main else lambda event: None, self._once_per_machine)
        self.model = self.parts.model
        self.adapter = adapters.resolve(self.model, config.adapter, plan.family) if config.adapter else None
        if self.adapter is not None:
            adapters.attach(self.model, self.adapter)
        self.model.to(self.accelerator.device)
        if precision == "bf16":
            short_attention.use(self.model)
            adapters.cast_frozen_to_bf16(self.model)
        self.model.train()
        self.objective = objectives.LIKELIHOODS[plan.family](self.model)
        if config.compile:
            from llmctl.training import compiling

            compiling.compile_forward(self.objective)
        lr = config.optimizer.lr
        assert lr is not None
        self.optimizer = optimizers.build(self.model, config.optimizer, lr=lr)
        self.batches = Batches(self.parts.train.lengths(), batch_size=config.batch_size, seed=config.seed)
        self.steps = self._steps_of(config)
        self.history = History(self.out) if self.main else None
        self.precision = precision
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self.trainable = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        self.state = TrainingState(Position(), keyed=self.batches.keyed)
        self.resumed_from: str | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._was_stopped = False

    def _steps_of(self, config: TrainConfig) -> planning.StepPlan:
        """The step plan of a configuration with a resolved learning rate."""
        assert config.optimizer.lr is not None
        return planning.plan(
            run_budget=planning.budget(
                steps_per_epoch=self.batches.per_epoch,
                epochs=config.epochs,
                max_steps=config.max_steps,
                max_tokens=config.max_tokens,
                max_seconds=config.max_time,
            ),
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size,
            world=self.accelerator.num_processes,
            steps_per_epoch=self.batches.per_epoch,
            learning_rate=config.optimizer.lr,
            schedule=config.schedule,
            eval_every=config.eval_every,
            save_every=config.save_every,
        )

    def _once(self, make: Callable[[], None]) -> None:
        """Call `make` in the main process while the others wait."""
        if self.main:
            make()
        self.accelerator.wait_for_everyone()

    def _once_per_machine(self, make: Callable[[], None]) -> None:
        """`_once`, then once on every other machine, where `make` finds its work done if they share the folder."""
        self._once(make)
        if self.accelerator.is_local_main_process and not self.main:
            make()
        self.accelerator.wait_for_everyone()

    def _agree(self) -> None:
        """Stop before the first step if the processes do not start from the same state."""
        agreement.check(
            self.accelerator,
            self.model,
            step=self.state.position.step,
            settings=resume.same_on_all_machines(self.plan.recorded, self.plan.parents) | {"precision": self.precision},
            data=self.plan.prepared.content,
            machine=self.config.machine_rank,
            run=str(self.out),
        )

    # -- the run ----------------------------------------------------------------------------------------------

    def go(self, stop: Callable[[], bool]) -> dict[str, Any]:
        """Train until budget or patience runs out or `stop` returns True; returns the fields of the JSON document."""
        self._resume()
        if not self._alone:
            self._agree()
        if text := planning.long_warmup(self.steps, self.config.schedule):
            self.emit(Event("warning", {"text": text}))
        trainable = "" if self.trainable == self.parameters else f" ({self.trainable:,} trainable)"
        self._report(
            f"{self.config.model.name}: {self.parameters:,} parameters{trainable}, {self.precision}, "
            f"{len(self.parts.train):,} examples, {self.steps.steps_per_epoch:,} steps per epoch"
        )
        window = list(self.state.window)
        first = self.state.position
        with self.history or contextlib.nullcontext():
            steps = loop.fit(
                self.objective,
                self.parts.train,
                self.batches,
                self.optimizer,
                self.steps,
                self.accelerator,
                clip_norm=self.config.clip_norm,
                seed=self.config.seed,
                start=first,
                stop=stop,
            )
            try:
                for report in self._until_end(steps):
                    window.append(report.loss)
                    done = report.progress >= 1.0
                    self._log_step(report, window, done=done)
                    if self._after_step(report, done=done):
                        break
            except loop.Diverged as error:
                raise self._diverged(error) from error
            finished = not self._was_stopped
            if finished and self.state.evaluated_step != self.state.position.step:
                self._evaluate(self.state.position)
        if finished and self.resumed_from and self.state.position == first:
            step = f"step {first.step:,}"
            self._report(
                f"the run already finished at {step}: to train further, add a larger --max-steps, --epochs, … to --resume"
            )
        self._save()
        if finished:
            self._once(self._publish)
        return self._fields(first, finished=finished)

    def _diverged(self, error: loop.Diverged) -> DivergedError:
        """The error, naming the last good checkpoint; `diverged.json` lists the records of the batch.

        The weights just before the step are suspect too, so a checkpoint of them does not count as good.
        """
        good = [path for path in checkpoints.all_of(self.out) if checkpoints.step_of(path) < error.step - 1]
        records = assemble.record_ids(self.parts.train, self.plan, error.indices.tolist())
        if self.main:
            atomic.write_json(
                self.out / "diverged.json", {"step": error.step, "error": error.message, "records": records}
            )
        kept = f"last good checkpoint: {good[0]}" if good else "no checkpoint is older"
        return DivergedError(f"{error.message}; {kept}", where=f"{self.out / 'diverged.json'}", hint=error.hint)

    def _until_end(self, steps: Generator[Report, None, bool]) -> Iterator[Report]:
        """The steps; none if patience has already run out. Records whether the run was stopped before its budget."""
        if self._out_of_patience:
            return
        self._was_stopped = yield from steps

    def _after_step(self, report: Report, *, done: bool) -> bool:
        """Evaluate and save where due; returns whether patience has run out."""
        due = self.steps.is_due(self.config.eval_every, report.position.step, report.progress_before, report.progress)
        if due or done:
            self._evaluate(report.position)
        save_due = self.steps.is_due(
            self.steps.save_every, report.position.step, report.progress_before, report.progress
        )
        waiting = self.config.save_every is None and time.monotonic() - self._saved_at > SAVE_SECONDS and self._alone
        if save_due or done or waiting:
            self._save()
        return self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.state.waited >= self.config.patience

    @property
    def _alone(self) -> bool:
        return bool(self.accelerator.num_processes == 1)

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
                    "epoch": round(position.step / self.steps.steps_per_epoch, 4),
                    "tokens": position.tokens,
                    "loss": self.state.train_loss,
                    "lr": report.lr,
                    "grad_norm": report.grad_norm,
                    "tokens_per_second": round(speed, 1),
                    "seconds": round(position.seconds, 3),
                }
            )
        if logged:
            window.clear()

    # -- evaluating -------------------------------------------------------------------------------------------

    def _evaluate(self, position: Position) -> None:
        """Score the validation split; save a checkpoint if it is the best so far."""
        self.state = replace(self.state, evaluated_step=position.step)
        if self.parts.validation is None:
            return
        loss, tokens = loop.validation_loss(
            self.objective, self.parts.validation, self.accelerator, batch_size=self.config.batch_size
        )
        scores = {"loss": loss}
        if self.plan.family not in ("encoder", "ctc"):
            scores["perplexity"] = math.exp(min(loss, 700.0))
        if self.plan.best_by is not None:
            scores[self.plan.best_score] = self._metric(loss, tokens)
        self.state = replace(self.state, validation=scores)
        value = scores[self.plan.best_score]
        better = self._is_better(value)
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
            self._save()

    def _is_better(self, value: float) -> bool:
        best = self.state.best
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        higher = self.plan.best_by is not None and self.plan.best_by.spec.higher_is_better
        return value > best.value if higher else value < best.value

    def _metric(self, loss: float, tokens: int) -> float:
        """The score that selects the best checkpoint, from the validation loss or from answers generated for part of
        the validation split; the same in every process."""
        assert self.plan.best_by is not None
        if self.plan.best_by.spec.output_type == "likelihood":
            return validate.likelihood_score(self.parts, self.plan, loss, tokens)
        value = torch.zeros(1, dtype=torch.float64, device=self.accelerator.device)
        if self.main:
            value[0] = validate.generated_score(self.parts, self.plan)
        return float(self.accelerator.reduce(value, "sum")[0])

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint; again for the same step only if its state has changed."""
        if self._saved_step == self.state.position.step and not self._state_changed():
            return
        self._saved_state, self._saved_step, self._saved_at = self.state, self.state.position.step, time.monotonic()

        def write() -> None:
            assert self.history is not None
            checkpoints.save(
                self.out,
                self.state,
                self.model,
                self.optimizer,
                origin=self.plan.origin,
                history=self.history.mark(),
            )
            checkpoints.prune(self.out, keep=self.config.keep_checkpoints, best=self.state.best)

        self._once(write)

    def _state_changed(self) -> bool:
        return replace(self.state, train_loss=0.0) != replace(self._saved_state, train_loss=0.0)

    def _resume(self) -> None:
        """Resume from the newest intact checkpoint, if there is one."""
        if not self.plan.resume:
            return self._restore_history({})
        path, refused = checkpoints.newest_intact(self.out)
        for each in refused:
            self.emit(Event("warning", {"text": f"{each}; using an older checkpoint"}))
        if path is None:
            self._report("the run has no checkpoint yet: starting from the beginning")
            return self._restore_history({})
        checkpoints.load_weights(path, self.model)
        checkpoints.load_optimizer(path, self.model, self.optimizer)
        self.state = checkpoints.read_state(path)
        self.batches.keyed = self.state.keyed
        best = self.state.best
        if best is not None and checkpoints.fault(checkpoints.folder_of(self.out, best.step)):
            self.emit(
                Event("warning", {"text": f"the best checkpoint, from step {best.step}, is damaged: ignoring it"})
            )
            self.state = replace(self.state, best=None, waited=0, evaluated_step=-1)
        self._saved_state, self._saved_step = self.state, self.state.position.step
        self.resumed_from = str(path)
        self._report(f"resumed from {path.name}")
        self._restore_history(checkpoints.read_history(path))
        self._warn_of_jump(checkpoints.read_origin(path))
        return None

    def _restore_history(self, mark: Mapping[str, Any]) -> None:
        """Continue `metrics.jsonl` where the checkpoint left it; warn where it is incomplete."""
        if self.history is None:
            return
        problem = self.history.restore(runs.metrics(self.out), mark, self.state.position.step)
        if problem:
            self.emit(Event("warning", {"text": problem}))

    def _warn_of_jump(self, origin: runs.Origin) -> None:
        """Warn where a changed budget moves the learning rate: its schedule spans the whole budget."""
        if not origin.settings or self.state.lr is None:
            return
        before, position = self._steps_of(TrainConfig.model_validate(origin.settings)), self.state.position
        used = (position.step, position.tokens, position.seconds)
        if text := planning.jump(before, self.steps, used, self.state.lr):
            self.emit(Event("warning", {"text": text}))

    # -- the end ----------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Write `model/` from the best checkpoint (without validation, from the last state), and the loss plot."""
        best = self.state.best
        if best is not None and best.step != self.state.position.step:
            checkpoints.load_weights(checkpoints.folder_of(self.out, best.step), self.model)
        short_attention.restore(self.model)
        publish.publish(self.out, self.model, self.parts, self.plan, self._facts(), adapter=self.adapter)
        rows = runs.metrics(self.out)
        title = f"{self.config.model.name} on {Path(self.config.data).name}: {self.parameters:,} parameters"
        score = self.plan.best_score if self.plan.best_by else None
        plots.loss_plot(rows, self.out / "plots", title=title, best_step=best.step if best else None, score=score)

    def _facts(self) -> dict[str, Any]:
        best = self.state.best
        return {
            "steps": self.state.position.step,
            "tokens": self.state.position.tokens,
            "train_loss": runs.without_nan(self.state.train_loss),
            "validation": runs.without_nan(self.state.validation),
            "best": {"step": best.step, "metric": best.metric, "value": best.value} if best else None,
            "parameters": self.parameters,
            "learned_parameters": self.trainable,
            "precision": self.precision,
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
            "model": str(self.out / "model"),
            "run": str(self.out),
            "resumed_from": self.resumed_from,
        }

    def _report(self, text: str, *, name: str = "note") -> None:
        self.emit(Event(name, {"text": text}))
