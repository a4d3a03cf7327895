"""Checks of `train` that need no torch: data, model, task, shape, budget, output."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.compatibility import (
    answering_task,
    check_able,
    check_card,
    check_instruction,
    check_task_version,
    no_text_likelihood,
    unreadable,
)
from llmctl.data.spec import CleanRules
from llmctl.errors import (
    ConfigError,
    DataError,
    EnvironmentFault,
    ErrorCollector,
    Fault,
    MissingPackage,
    UsageError,
)
from llmctl.metrics.parse import MetricRequest, parse_metric
from llmctl.models import families
from llmctl.models.resolve import PARENT, PARENT_PATH, is_costly, open_weights
from llmctl.models.spec import HUB, ModelSpec, Shape
from llmctl.readable import quoted
from llmctl.settings import LOSS
from llmctl.store import atomic, runs
from llmctl.store.adapters import check_installed, check_targets, stack_layers
from llmctl.store.models import ModelFolder, content_hash
from llmctl.store.prepared import MANIFEST, Prepared, open_prepared
from llmctl.store.weights import shapes
from llmctl.tasks.spec import Task
from llmctl.training import machine, world
from llmctl.training.spec import TRACKERS
from llmctl.training.world import World
from llmctl.types import Denoising, EventSink, Family, null_sink
from llmctl.workflows.train import objective
from llmctl.workflows.train.consistency import check_blocks, check_counts, check_shape
from llmctl.workflows.train.defaults import resolve
from llmctl.workflows.train.resume import check_resumable, check_same_parents
from llmctl.workflows.train.spec import TrainConfig

ADAM_COPIES: Final = 3
"""Copies of the weights in a checkpoint: the weights and Adam's two moments."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A configuration that passed all checks, with what they found."""

    config: TrainConfig
    prepared: Prepared
    task: Task
    family: Family
    architecture: ModelSpec | None
    shape: Shape | None
    pretrained_folder: ModelFolder | None
    best_by: MetricRequest | None
    """The metric that selects the best checkpoint; None: the loss."""
    parents: Mapping[str, str]
    resume: bool
    denoising: Denoising | None
    """The denoising objective of plain text; None for next-token prediction and other tasks."""
    answers: Task
    """The task that the trained model answers; another than `task` for preference pairs."""
    world: World | None = None
    """The processes that another launcher started as this run; None if llmctl starts them."""

    @property
    def recorded(self) -> TrainConfig:
        """The configuration as RUN/config.yaml has it: the shape of the model spelled out, paths absolute."""
        name = self.config.model.name
        if registry.looks_like_path(name) and not name.startswith(HUB):
            name = os.path.abspath(Path(name).expanduser())
        shape = self.shape.explicit() if self.architecture and self.shape else self.config.model.explicit()
        places = {"data": os.path.abspath(self.config.data), "out": os.path.abspath(self.config.out)}
        return self.config.replace(**places, model={"name": name, **shape})

    @property
    def origin(self) -> runs.Origin:
        """What the run is started with, as its record and its checkpoints keep it."""
        return runs.Origin(json.loads(self.recorded.model_dump_json(exclude_none=True)), self.parents)

    @property
    def best_score(self) -> str:
        """The name of the score that selects the best checkpoint: `loss`, or one of the metric's."""
        return self.best_by.score if self.best_by else LOSS

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        found: dict[str, Any] = {"task": self.task.name, "family": self.family, "best_by": self.best_score}
        if self.architecture and self.shape:
            size = self.prepared.manifest.tokenizer.vocab_size
            labels = len(self.prepared.manifest.labels)
            found["parameters"] = self.architecture.parameters(self.shape, size, labels)
            found["shape"] = self.shape.explicit()
        found["records"] = dict(self.prepared.manifest.splits)
        found["tokens"] = dict(self.prepared.manifest.tokens)
        found["resume"] = self.resume
        return found


def examine(config: TrainConfig, *, offline: bool, emit: EventSink = null_sink) -> TrainPlan:
    """Check that model, data, task and settings are compatible; raises all faults at once. Ignores the output folder;
    imports nothing heavy."""
    collector = ErrorCollector()
    plan = _examine(config, collector, offline=offline, emit=emit)
    collector.raise_all()
    assert plan is not None
    return plan


def _examine(
    config: TrainConfig,
    collector: ErrorCollector,
    *,
    offline: bool,
    verify: bool = False,
    parents: Mapping[str, str] | None = None,
    emit: EventSink,
) -> TrainPlan | None:
    """The plan, or None where `collector` holds a fault that makes it impossible."""
    prepared = collector.check("data", open_prepared, config.data)
    if not collector.ok and is_costly(config.model.name):
        return None
    model = collector.check("model", _model, config, offline=offline, verify=verify, emit=emit)
    if config.compile:
        collector.check("compile", _check_compiler)
    collector.check("", check_counts, config)
    collector.check("tracker", _check_trackers, config)
    if prepared is None or model is None:
        return None
    task: Task = registry.load("tasks", prepared.manifest.task)()
    collector.check("data", check_task_version, task, prepared.manifest.task_version, prepared.path / MANIFEST)
    if prepared.manifest.sha256 is None:  # else an edited manifest is found by its hash
        collector.check("data", CleanRules.recorded, prepared.clean or {})
    architecture, shape, pretrained_folder = model
    family = collector.check("model", _family, config, task, architecture, pretrained_folder)
    if family is None:
        return None
    collector.check("data", check_blocks, config, prepared, family, pretrained_folder)
    if shape is not None:
        collector.check("model", check_shape, config, prepared, shape)
    collector.check("data", _check_train_split, config, prepared)
    best_by = collector.check("best_by", _best_by, config, prepared, task, family)
    tokenizer = pretrained_folder.path if pretrained_folder and pretrained_folder.has_tokenizer else prepared.tokenizer
    denoising = collector.check(
        "noise_density", objective.denoising, config, task, family, architecture, pretrained_folder
    )
    trained = pretrained_folder.card.task if pretrained_folder and pretrained_folder.card else None
    answers = answering_task(task, trained)
    collector.check("instruction", check_instruction, config.instruction, answers, family, tokenizer)
    collector.check("", objective.check, config, task, answers, family, random=pretrained_folder is None)
    if not collector.ok:
        return None
    return TrainPlan(
        config=resolve(config, architecture, shape, pretrained_folder, pairs=task.pairs),
        prepared=prepared,
        task=task,
        family=family,
        architecture=architecture,
        shape=shape,
        pretrained_folder=pretrained_folder,
        best_by=best_by,
        parents=parents or _parents(config, prepared, pretrained_folder),
        resume=False,
        denoising=denoising,
        answers=answers,
    )


def preflight(
    config: TrainConfig,
    *,
    force: bool,
    offline: bool,
    resume: bool = False,
    verify: bool = False,
    in_worker: bool = False,
    parents: Mapping[str, str] | None = None,
    emit: EventSink = null_sink,
) -> TrainPlan:
    """`examine`, and check that the run can be written to `out`; raises all faults at once.

    `in_worker`: the checks that the starting process made are not repeated. `parents`: the hashes it found.
    """
    collector = ErrorCollector()
    joined = (
        None
        if in_worker
        else collector.check("processes", world.joined, config.processes, config.machines, config.machine_rank)
    )
    plan = _examine(config, collector, offline=offline, verify=verify, parents=parents, emit=emit)
    if plan is not None and not in_worker:
        collector.check("data", plan.prepared.check_files, verify=verify)
    resuming = resume and runs.is_started(config.out)
    if resuming and plan is not None:
        collector.check("out", check_same_parents, config, plan.parents)
        collector.check("out", check_resumable, config.out, null_sink if in_worker else emit)
    begins = not resuming and not in_worker and config.machine_rank == 0
    if begins and plan is not None and plan.task.labelled:
        collector.check("data", _check_labels, config, plan.prepared)
    collector.check("out", _check_out, config, plan, begins=begins, force=force)
    collector.raise_all()
    assert plan is not None
    return replace(plan, resume=resuming, world=joined)


def _check_compiler() -> None:
    """Raises `EnvironmentFault` where torch.compile would find no C++ compiler, after minutes of work."""
    if not machine.cpp_compiler():
        raise EnvironmentFault(
            "compile=true needs a C++ compiler, and none is found",
            hint="install g++, or point the environment variable CXX at a compiler",
        )


def _check_trackers(config: TrainConfig) -> None:
    """Raises `MissingPackage` for a tracker that is not installed."""
    for name in config.tracker:
        package, *others = TRACKERS[name]
        if any(importlib.util.find_spec(each) is None for each in (package, *others)):
            raise MissingPackage(package, needed_for=f"--tracker {name}", install=f"pip install {package}")


def _check_out(config: TrainConfig, plan: TrainPlan | None, *, begins: bool, force: bool) -> None:
    """Check that the run can be written. Without a plan, only the folder itself is checked."""
    if begins:
        go_on = f"llmctl train --resume {quoted(config.out)}"
        atomic.refuse_existing(config.out, force=force, marker=runs.RUN, go_on=go_on)
        refuse_inside_run(config.out)
    pretrained_folder = plan.pretrained_folder if plan else None
    atomic.refuse_same(config.out, [config.data, *([pretrained_folder.path] if pretrained_folder else [])])
    atomic.check_writable(config.out / "model", bytes_needed=bytes_needed(plan) if plan else 0)


def _check_train_split(config: TrainConfig, prepared: Prepared) -> None:
    if not prepared.manifest.splits.get("train"):
        raise DataError("the train split is empty", where=str(config.data), hint="preprocess more records")


def _check_labels(config: TrainConfig, prepared: Prepared) -> None:
    if len(prepared.manifest.labels) == 1:
        raise DataError(
            f"every record of the train split has the label {prepared.manifest.labels[0]!r}: there is nothing to learn",
            where=str(config.data),
            hint="preprocess records of two or more labels",
        )


def _model(
    config: TrainConfig, *, offline: bool, verify: bool, emit: EventSink
) -> tuple[ModelSpec | None, Shape | None, ModelFolder | None]:
    name, overrides = config.model.name, Shape.model_validate(config.model.model_dump(exclude={"name"}))
    if name.startswith(HUB) or registry.looks_like_path(name):
        if changed := overrides.explicit():
            raise ConfigError(
                [Fault(f"model.{each}", "pretrained weights fix the shape") for each in changed],
                hint="leave model.* out, or name an architecture for random weights",
            )
        pretrained_folder = open_weights(name, offline=offline, verify=verify, emit=emit)
        check_card(pretrained_folder)
        if pretrained_folder.adapter is not None:
            raise UsageError(
                f"{name} is an adapter: training starts from full weights",
                hint=f"llmctl merge {quoted(name)} --out DIR, then --model DIR",
            )
        if config.adapter is not None:
            check_installed()
            check_targets(config.adapter.targets, stack_layers(shapes(pretrained_folder.path)))
        return None, None, pretrained_folder
    if config.adapter is not None:
        raise ConfigError(
            [Fault("adapter", f"needs pretrained weights, {name} has random ones", "--model RUN, a folder or hf:ID")]
        )
    architecture, _, size = name.partition(":")
    spec: ModelSpec = registry.load("models", architecture)
    own = spec.settings()
    faults = [
        Fault(
            f"model.{each}", f"{spec.name} has no such setting", registry.near(each, own) or f"it has {', '.join(own)}"
        )
        for each in overrides.explicit()
        if each not in own
    ]
    if faults:
        raise ConfigError(faults)
    return spec, spec.shape(size or spec.default_size, overrides), None


def refuse_inside_run(out: Path) -> None:
    """Raise `UsageError` for a run inside a run: it would be deleted with the outer one and never listed."""
    for folder in out.absolute().parents:
        if (folder / runs.RUN).is_file():
            raise UsageError(f"{out} lies inside the run {folder}", hint="name another --out")


def _family(
    config: TrainConfig, task: Task, architecture: ModelSpec | None, pretrained_folder: ModelFolder | None
) -> Family:
    """The model's family. Raises `UsageError` for a model that cannot learn the task, and what `family_of` does."""
    own = pretrained_folder.config if pretrained_folder else {}
    family: Family = architecture.family if architecture else families.family_of(own)
    check_able(config.model.name, task, family, architecture.name if architecture else str(own.get("model_type", "")))
    return family


def _best_by(config: TrainConfig, prepared: Prepared, task: Task, family: Family) -> MetricRequest | None:
    """The metric that selects the best checkpoint; None for the loss. Raises `UsageError`, naming those that can."""
    if config.best_by is None or config.best_by == LOSS:
        return None
    found = config.best_by
    if why := unreadable(found.spec, task) or no_text_likelihood(found.spec, task, family):
        own = [parse_metric(name)[0] for name in task.metrics]
        able = [spec.name for spec in own if not (unreadable(spec, task) or no_text_likelihood(spec, task, family))]
        raise UsageError(why, hint=f"--best-by {' or '.join([LOSS, *able])}")
    if not prepared.manifest.splits.get("validation"):
        raise UsageError(f"--best-by {config.best_by} needs a validation split, {config.data} has none")
    return found


def _parents(config: TrainConfig, prepared: Prepared, pretrained_folder: ModelFolder | None) -> dict[str, str]:
    found = {"data": prepared.content, "data_path": os.path.abspath(prepared.path)}
    if pretrained_folder is not None:
        hub = config.model.name.startswith(HUB)
        place = pretrained_folder.path if hub else Path(config.model.name).expanduser()
        found |= {PARENT: content_hash(pretrained_folder.path), PARENT_PATH: os.path.abspath(place)}
    return found


def bytes_needed(plan: TrainPlan) -> int:
    """Disk space in bytes for the checkpoints kept, the best one, one being written, and the model."""
    config, folder = plan.config, plan.pretrained_folder
    if plan.architecture and plan.shape:
        labels = len(plan.prepared.manifest.labels)
        size = plan.prepared.manifest.tokenizer.vocab_size
        weights = 4 * plan.architecture.parameters(plan.shape, size, labels)
    else:
        weights = sum(each.stat().st_size for each in folder.path.glob("*.safetensors")) if folder else 0
    if config.adapter is not None and folder is not None:
        # The two matrices of rank r beside a square one of width w have 2r/w of its weights.
        width = folder.config.get("hidden_size")
        weights = int(weights * min(1.0, 2 * config.adapter.rank / width)) if isinstance(width, int) else weights
    return weights * ADAM_COPIES * (config.keep_checkpoints + 2) + weights
