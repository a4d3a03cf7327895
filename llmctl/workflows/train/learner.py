"""What a step of training changes and reads: model, objective, optimizer, examples and batches, on this process's device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from llmctl.data.examples.batches import Batches
from llmctl.errors import DivergedError
from llmctl.models import adapters, autocast_kernels
from llmctl.store import atomic
from llmctl.training import agreement, checkpoints, devices, loop, meeting, objectives, optimizers, parallel
from llmctl.training import plan as planning
from llmctl.training.objectives import Objective
from llmctl.training.parallel import Strategy
from llmctl.training.preference import PreferenceObjective
from llmctl.types import Event, EventSink, null_sink
from llmctl.workflows.train import assemble, resume
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.reference import with_reference
from llmctl.workflows.train.spec import TrainConfig

PREFETCHED: Final = 2


class Learner:
    """The parts of a run in one of its processes."""

    def __init__(self, plan: TrainPlan, emit: EventSink) -> None:
        config = plan.config
        self.config, self.plan = config, plan
        self._emit = emit
        self.precision = devices.resolve_precision(config.precision)
        self.accelerator = devices.accelerator(self.precision)
        self.main = bool(self.accelerator.is_main_process)
        self.alone = bool(self.accelerator.num_processes == 1)
        if not devices.set_tf32(config.tf32, self.accelerator.device) and config.tf32:
            emit(Event("warning", {"text": "tf32 has no effect: only NVIDIA GPUs since Ampere have it"}))
        torch.manual_seed(config.seed)
        # Log-probabilities of a reference model are computed before the model is cut.
        empty = config.parallel == "fsdp" and not self.alone and not plan.task.pairs
        say = emit if self.main else null_sink
        self.parts = assemble.assemble(plan, say, self._once_per_machine, empty=empty)
        self.model: Any = self.parts.model
        self.adapter = adapters.resolve(self.model, config.adapter, plan.family) if config.adapter else None
        if self.adapter is not None:
            adapters.attach(self.model, self.adapter)
            if self.parts.unread is not None:
                unread = adapters.names_with_adapter(self.model, self.parts.unread)
                self.parts = replace(self.parts, unread=unread)
        if self.parts.unread is None:
            self.model.to(self.accelerator.device)
        if self.precision == "bf16":
            autocast_kernels.use(self.model)
            adapters.cast_frozen_to_bf16(self.model)
        self.model.train()
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self.trainable = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        likelihood = objectives.LIKELIHOODS[plan.family](self.model)
        if plan.task.pairs:
            self.parts = with_reference(self.parts, plan, likelihood, self.accelerator, self.precision, emit)
        self.strategy = self._strategy(PreferenceObjective(likelihood, config.dpo) if plan.task.pairs else likelihood)
        lr = config.optimizer.lr
        assert lr is not None
        self.optimizer = optimizers.build(self.model, config.optimizer, lr=lr)
        self.batches = Batches(self.parts.train.lengths(), batch_size=config.batch_size, seed=config.seed)
        self.steps = self.steps_of(config)
        self.shares_folder = self._shares_folder()

    def _strategy(self, objective: Objective) -> Strategy:
        """The objective, spread over the processes of the run."""
        config = self.config
        if config.activation_checkpointing and not parallel.checkpoint_activations(objective):
            text = f"activation_checkpointing has no effect: {config.model.name} has no stack of layers"
            self._emit(Event("warning", {"text": text}))
        if config.compile:
            from llmctl.training import compiling

            compiling.compile_forward(objective)
        if self.alone:
            if config.parallel == "fsdp":
                self._emit(Event("note", {"text": "one process holds all of the model: --parallel fsdp has no effect"}))
            return Strategy(objective, self.accelerator)
        if config.parallel == "fsdp":
            unread = self.parts.unread
            # Pretrained weights are compared by the hash of their files, among the settings.
            self._begins_with = agreement.number_of_weights(self.model) if unread is None else 0
            strategy = parallel.FullySharded(objective, self.accelerator, cpu_offload=config.cpu_offload)
            if unread is not None:
                assert self.plan.pretrained_folder is not None
                strategy.read(self.model, self.plan.pretrained_folder.path, unread)
            return strategy
        example = loop.to_tensors(self.parts.train.arrays([0]), self.accelerator.device)
        return parallel.DataParallel(objective, self.accelerator, loop.on_device(example, self.accelerator.device))

    def steps_of(self, config: TrainConfig) -> planning.StepPlan:
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

    @property
    def prefetch(self) -> int:
        """Batches to build ahead. On a CPU the worker would take a core from the step."""
        default = PREFETCHED if self.accelerator.device.type != "cpu" else 0
        return default if self.config.prefetch is None else self.config.prefetch

    def once(self, make: Callable[[], None]) -> None:
        """Call `make` in the main process while the others wait."""
        if self.main:
            make()
        self.accelerator.wait_for_everyone()

    def _once_per_machine(self, make: Callable[[], None]) -> None:
        """`once`, then once on every other machine, where `make` finds its work done if they share the folder."""
        self.once(make)
        if self.accelerator.is_local_main_process and not self.main:
            make()
        self.accelerator.wait_for_everyone()

    def agree_on_step(self, step: int) -> None:
        """Stop before anything is loaded if the processes would not start from the same step, settings and data."""
        if self.alone:
            return
        agreement.check(
            self.accelerator,
            step=step,
            settings=resume.same_on_all_machines(self.plan.recorded, self.plan.parents) | {"precision": self.precision},
            data=self.plan.prepared.content,
            machine=self.config.machine_rank,
            run=str(self.config.out),
        )

    def agree_on_weights(self, checkpoint: Path | None) -> None:
        """Stop before the first step if the processes do not start from the same weights.

        Parts of weights cannot be compared: of a checkpoint its hashes are, else the weights before they were cut.
        """
        if self.alone:
            return
        if not self.strategy.sharded:
            number = agreement.number_of_weights(self.model)
        elif checkpoint is not None:
            number = agreement.number_of((checkpoint / checkpoints.MANIFEST).read_text(encoding="utf-8"))
        else:
            number = self._begins_with
        machine, run = self.config.machine_rank, str(self.config.out)
        agreement.check_weights(self.accelerator, number, machine=machine, run=run)

    def _shares_folder(self) -> bool:
        """Whether every process sees the run folder; all of them ask at once."""
        if self.alone or os.environ.get("LOCAL_WORLD_SIZE") == str(self.accelerator.num_processes):
            return True
        probe = atomic.temporary_beside(self.config.out / "shared")
        if self.main:
            probe.touch()
        seen = (probe.parent / meeting.from_main(lambda: probe.name)).exists()
        found = all(self.strategy.gather_objects(seen))
        if self.main:
            probe.unlink()
        return found

    def diverged(self, error: loop.Diverged) -> DivergedError:
        """The error, naming the last good checkpoint; `diverged.json` lists the records of the batch.

        The weights just before the step are suspect too, so a checkpoint of them does not count as good.
        """
        out = self.config.out
        good = [path for path in checkpoints.all_of(out) if checkpoints.step_of(path) < error.step - 1]
        records = assemble.record_ids(self.parts.train, self.plan, error.indices.tolist())
        if self.main:
            atomic.write_json(out / "diverged.json", {"step": error.step, "error": error.message, "records": records})
        kept = f"last good checkpoint: {good[0]}" if good else "no checkpoint is older"
        return DivergedError(f"{error.message}; {kept}", where=f"{out / 'diverged.json'}", hint=error.hint)
