"""All of `compare` that can be checked before torch is imported: every model as `train` would, data, metrics, output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.config import combine, merge, validate
from llmctl.errors import ConfigError, DataError, Fault, IntegrityError, UsageError
from llmctl.models.spec import HUB
from llmctl.store import atomic, locks
from llmctl.store.prepared import Prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import EventSink, null_sink
from llmctl.workflows.compare.spec import CompareConfig, same_model
from llmctl.workflows.compatibility import models_that_can
from llmctl.workflows.evaluate.checks import Metrics, metrics_of
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.settings import differing
from llmctl.workflows.train import checks as train_checks
from llmctl.workflows.train.spec import TrainConfig

COMPARISON: Final = "compare.json"
SPLIT: Final = "test"
BUDGETS: Final = ("epochs", "max_steps", "max_tokens", "max_time")
USUAL_EPOCHS: Final = 3.0
RATES_APART: Final = 3.0
"""The factor between two learning rates of a search."""
NEVER: Final = 2**53
"""Steps between two evaluations of a trial: it is judged at its end alone."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the comparison."""

    model: str
    name: str
    """Of its run's folder, and of the model where that is a folder itself."""
    run: Path
    trials: Path
    checked: train_checks.TrainPlan
    rates: tuple[float, ...]
    """The learning rates to try; one that is given or usual needs no trial."""

    @property
    def title(self) -> str:
        """What it is called in tables and pictures."""
        return self.name if os.path.isabs(self.model) else self.model

    @property
    def parameters(self) -> int | None:
        """Known beforehand of random weights alone."""
        found: int | None = self.checked.to_dict().get("parameters")
        return found

    def training(self, rate: float) -> TrainConfig:
        """How it is trained."""
        settings = self.checked.resolved
        return settings.replace(out=self.run, optimizer=settings.optimizer.model_dump() | {"lr": rate})

    def trial(self, rate: float, share: float) -> TrainConfig:
        """How a learning rate is tried: for a share of every budget, judged by the loss at the end alone."""
        training = self.training(rate)
        budgets: dict[str, Any] = {}
        for name in BUDGETS:
            if (whole_budget := getattr(training, name)) is not None:
                part = whole_budget * share
                budgets[name] = max(1, round(part)) if isinstance(whole_budget, int) else part
        return training.replace(
            **budgets,
            out=self.trials / f"{rate:.3g}",
            eval_every=NEVER,
            save_every=None,
            patience=None,
            best_by=None,
            keep_checkpoints=1,
        )


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """What was found sound."""

    resolved: CompareConfig
    task: Task
    prepared: Prepared
    metrics: Metrics
    candidates: tuple[Candidate, ...]
    found: Mapping[str, Any]
    """What a comparison that goes on has written so far."""
    resume: bool

    @property
    def budget(self) -> dict[str, Any]:
        return {name: value for name in BUDGETS if (value := getattr(self.resolved, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` tells."""
        return {
            "task": self.task.name,
            "records": dict(self.prepared.manifest.splits),
            "metrics": [name for spec, _ in self.metrics for name in spec.scores],
            "models": [
                {
                    "model": each.model,
                    "family": each.checked.family,
                    "parameters": each.parameters,
                    "learning_rates": list(each.rates),
                    "run": str(each.run),
                }
                for each in self.candidates
            ],
            "resume": self.resume,
        }


def preflight(
    config: CompareConfig, *, force: bool, offline: bool, resume: bool = False, emit: EventSink = null_sink
) -> ComparePlan:
    """Raise what is wrong, for all models at once, before anything slow; imports nothing heavy."""
    prepared = open_prepared(config.data)
    task: Task = registry.load("tasks", prepared.manifest.task)()
    if not prepared.manifest.splits.get(SPLIT):
        raise DataError(
            f"the {SPLIT} split is empty", where=str(config.data), hint="preprocess with more in splits.test"
        )
    resolved = _resolve(config)
    evaluation = EvalConfig(model=resolved.models[0], data=resolved.data, metric=resolved.metric)
    metrics = metrics_of(evaluation, task)
    resuming = resume and (config.out / COMPARISON).is_file()
    _check_out(config, resume=resuming, force=force)
    candidates = _candidates(resolved, prepared, task, resume=resuming, offline=offline, emit=emit)
    _check_room(config.out, [each.checked for each in candidates])
    return ComparePlan(resolved, task, prepared, metrics, candidates, _found(config.out) if resuming else {}, resuming)


def _resolve(config: CompareConfig) -> CompareConfig:
    """Places made absolute, the budget filled in: `DIR/config.yaml`."""
    changes: dict[str, Any] = {"data": os.path.abspath(config.data), "out": os.path.abspath(config.out)}
    changes["models"] = [_absolute(name) for name in config.models]
    changes["lrs"] = {_absolute(name): rate for name, rate in config.lrs.items()}
    if all(getattr(config, name) is None for name in BUDGETS):
        changes["epochs"] = USUAL_EPOCHS
    return config.replace(**changes)


def _absolute(name: str) -> str:
    is_place = registry.looks_like_path(name) and not name.startswith(HUB)
    return os.path.abspath(os.path.expanduser(name)) if is_place else name


def _candidates(
    config: CompareConfig, prepared: Prepared, task: Task, *, resume: bool, offline: bool, emit: EventSink
) -> tuple[Candidate, ...]:
    """Every model, checked as `train` checks it. Raises `ConfigError` with the faults of all."""
    explicit, faults = _explicit_rates(config)
    found: list[Candidate] = []
    names = run_names(config.models)
    for number, model in enumerate(config.models):
        run = config.out / "runs" / names[number]
        rate = explicit.get(same_model(model), config.lr)
        try:
            settings = _training(config, model, run, rate)
            # The comparison's own folder is what must not be in the way: a run in it is begun, gone on with or done.
            checked = train_checks.preflight(
                settings, force=True, offline=offline, resume=resume, in_worker=True, emit=emit
            )
            if checked.family not in task.promptable:
                raise UsageError(
                    f"{model} can learn {task.name} but not be asked, so nothing can score it",
                    hint=models_that_can(task.promptable, packed=task.packed),
                )
        except ConfigError as error:
            faults += [_of(model, number, each) for each in error.faults]
        except UsageError as error:
            faults.append(Fault(f"models.{number}", error.message, error.hint))
        else:
            rates = _rates(config, checked) if rate is None else (rate,)
            found.append(Candidate(model, names[number], run, config.out / "search" / names[number], checked, rates))
    if any(len(each.rates) > 1 for each in found) and not prepared.manifest.splits.get("validation"):
        problem = f"is searched for on a validation split, {config.data} has none"
        faults.append(Fault("lr", problem, "--lr RATE, or --set search.rates=1 for each model's own"))
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return tuple(found)


def _of(model: str, number: int, fault: Fault) -> Fault:
    """A fault of one model's training as one of the comparison."""
    own = fault.path.partition(".")[0] in CompareConfig.model_fields
    path = fault.path if own else f"models.{number}" if fault.path == "model" else f"train.{fault.path}"
    return replace(fault, path=path, problem=fault.problem if model in fault.problem else f"{model}: {fault.problem}")


def _training(config: CompareConfig, model: str, run: Path, rate: float | None) -> TrainConfig:
    further = json.loads(config.train.model_dump_json(exclude_none=True))
    own = {
        "data": str(config.data),
        "model": {"name": model},
        "out": str(run),
        "optimizer": {"lr": rate},
        **{name: getattr(config, name) for name in (*BUDGETS, "batch_size", "precision", "seed")},
    }
    return validate(TrainConfig, combine(TrainConfig, [further, own]), prefix="train.")


def _explicit_rates(config: CompareConfig) -> tuple[dict[str, float], list[Fault]]:
    """`lrs` by what each name means; those that mean no model of the comparison."""
    known = {same_model(model) for model in config.models}
    rates: dict[str, float] = {}
    faults: list[Fault] = []
    for name, rate in config.lrs.items():
        try:
            meant = same_model(name)
        except (UsageError, KeyError):
            meant = name
        if meant not in known:
            hint = registry.near(name, config.models) or f"its models are {', '.join(config.models)}"
            faults.append(Fault(f"lrs.{name}", "is no model of the comparison", hint))
        elif meant in rates:
            faults.append(Fault(f"lrs.{name}", "stands twice"))
        rates[meant] = rate
    return rates, faults


def _rates(config: CompareConfig, checked: train_checks.TrainPlan) -> tuple[float, ...]:
    """The model's usual learning rate, and as many to each side of it."""
    usual = checked.resolved.optimizer.lr
    assert usual is not None
    each_side = config.search.rates // 2
    powers = range(-each_side, each_side + 1)
    return tuple(float(f"{usual * RATES_APART**power:.3g}") if power else usual for power in powers)


def run_names(models: Sequence[str]) -> list[str]:
    """A folder's name for each model: `gpt2:nano` is `gpt2-nano`, of a folder its last part that says something."""
    found: list[str] = []
    for model in models:
        place = Path(model)
        of_place = os.sep in model and not model.startswith(HUB)
        base = (place.parent if place.name == "model" else place).name if of_place else model.removeprefix(HUB)
        name = re.sub(r"[^\w.-]+", "-", base).strip(".-") or "model"
        numbered = (f"{name}-{number}" for number in range(2, len(models) + 2))
        found.append(name if name not in found else next(each for each in numbered if each not in found))
    return found


def _check_out(config: CompareConfig, *, resume: bool, force: bool) -> None:
    out = config.out
    if locks.is_locked(out):
        with locks.locked(out):  # says who holds it
            pass
    if not resume and not _only_begun(out):
        atomic.refuse_existing(out, force=force, marker=COMPARISON)
    train_checks.refuse_inside_run(out)
    atomic.refuse_same(out, [config.data])


def _check_room(out: Path, trainings: Sequence[train_checks.TrainPlan]) -> None:
    atomic.refuse_same(out, [each.pretrained_folder.path for each in trainings if each.pretrained_folder is not None])
    needed = sum(train_checks.bytes_needed(each.resolved, each) for each in trainings)
    atomic.check_writable(out / "runs", bytes_needed=needed)


def _only_begun(out: Path) -> bool:
    """Whether a process was killed there before it had written anything."""
    hidden = (locks.NAME, atomic.TEMPORARY)
    return out.is_dir() and all(each.name.startswith(hidden) for each in out.iterdir())


def _found(out: Path) -> Mapping[str, Any]:
    """Raises `IntegrityError` where it was edited."""
    path = out / COMPARISON
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and all(isinstance(row["model"], str) and row["status"] for row in value["rows"]):
            return value
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("is not what llmctl compare wrote", where=str(path), hint="--force begins anew") from error
    raise IntegrityError("is not what llmctl compare wrote", where=str(path), hint="--force begins anew")


def check_same(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a comparison that goes on is asked for what would make it another one."""
    started_with = combine(CompareConfig, [recorded])
    before = _comparable(validate(CompareConfig, started_with))
    after = _comparable(validate(CompareConfig, merge(started_with, combine(CompareConfig, [requested]))))
    faults = [
        Fault(path, f"the comparison was begun with {was}, not {now}", "leave it out, or make another: --out")
        for name in before
        for path, was, now in differing(name, before[name], after[name])
        if was != now
    ]
    if faults:
        raise ConfigError(faults)


def _comparable(config: CompareConfig) -> dict[str, Any]:
    return _resolve(config).model_dump(mode="json", exclude={"out"}, exclude_none=True)
