"""Check a comparison before torch is imported: every model as `train` checks it, data, metrics, output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.compatibility import models_that_can
from llmctl.config import combine, merge, validate
from llmctl.errors import ConfigError, DataError, Fault, IntegrityError, UsageError
from llmctl.models.spec import HUB
from llmctl.readable import quoted
from llmctl.settings import differing
from llmctl.store import atomic, locks
from llmctl.store.prepared import Prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import EventSink, null_sink
from llmctl.verbs import CONFIG
from llmctl.workflows.compare.spec import CompareConfig, same_model
from llmctl.workflows.evaluate.checks import Metrics, metrics_of
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.train import checks as train_checks
from llmctl.workflows.train.spec import BUDGETS, DEFAULT_EPOCHS, TrainConfig

COMPARISON: Final = "compare.json"
SPLIT: Final = "test"
RATES_APART: Final = 3.0
"""The factor between neighbouring learning rates of a search."""
NEVER: Final = 2**53
"""Evaluation interval of a trial, in steps: evaluate only at the end."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model in the comparison."""

    model: str
    name: str
    """Name of its run folder; also shown instead of `model` if that is an absolute path."""
    run: Path
    trials: Path
    plan: train_checks.TrainPlan
    rates: tuple[float, ...]
    """Learning rates to try; a single one is used without a search."""

    @property
    def title(self) -> str:
        """Its name in tables and plots."""
        return self.name if os.path.isabs(self.model) else self.model

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None for pretrained weights, where it is not known in advance."""
        found: int | None = self.plan.to_dict().get("parameters")
        return found

    def training(self, rate: float) -> TrainConfig:
        """The training configuration with this learning rate."""
        settings = self.plan.config
        return settings.replace(out=self.run, optimizer=settings.optimizer.model_dump() | {"lr": rate})

    def trial(self, rate: float, share: float) -> TrainConfig:
        """The configuration of a trial: `share` of every budget, evaluated only at the end."""
        training = self.training(rate)
        budgets: dict[str, Any] = {}
        for name in BUDGETS:
            if (full := getattr(training, name)) is not None:
                part = full * share
                budgets[name] = max(1, round(part)) if isinstance(full, int) else part
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
    """The checked comparison."""

    config: CompareConfig
    """With the budget and absolute paths, as config.yaml has it."""
    task: Task
    prepared: Prepared
    metrics: Metrics
    candidates: tuple[Candidate, ...]
    found: Mapping[str, Any]
    """The contents of `compare.json` when resuming; else empty."""
    resume: bool

    @property
    def budget(self) -> dict[str, Any]:
        return {name: value for name in BUDGETS if (value := getattr(self.config, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The plan shown by `--dry-run`."""
        return {
            "task": self.task.name,
            "records": dict(self.prepared.manifest.splits),
            "metrics": [name for spec, _ in self.metrics for name in spec.scores],
            "models": [
                {
                    "model": each.model,
                    "family": each.plan.family,
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
    """Raise all errors of all models at once, before slow work starts. Imports nothing heavy."""
    prepared = open_prepared(config.data)
    task: Task = registry.load("tasks", prepared.manifest.task)()
    if not prepared.manifest.splits.get(SPLIT):
        raise DataError(
            f"the {SPLIT} split is empty", where=str(config.data), hint="preprocess again with a larger splits.test"
        )
    resolved = _resolve(config)
    evaluation = EvalConfig(model=resolved.models[0], data=resolved.data, metric=resolved.metric)
    metrics = metrics_of(evaluation, task)
    resuming = resume and (config.out / COMPARISON).is_file()
    _check_out(config, resume=resuming, force=force)
    candidates = _candidates(resolved, prepared, task, resume=resuming, offline=offline, emit=emit)
    _check_room(config.out, [each.plan for each in candidates])
    return ComparePlan(resolved, task, prepared, metrics, candidates, _found(config.out) if resuming else {}, resuming)


def _resolve(config: CompareConfig) -> CompareConfig:
    """Make paths absolute and fill in the budget, as written to `config.yaml`."""
    changes: dict[str, Any] = {"data": os.path.abspath(config.data), "out": os.path.abspath(config.out)}
    changes["models"] = [_absolute(name) for name in config.models]
    changes["lrs"] = {_absolute(name): rate for name, rate in config.lrs.items()}
    if all(getattr(config, name) is None for name in BUDGETS):
        changes["epochs"] = DEFAULT_EPOCHS
    return config.replace(**changes)


def _absolute(name: str) -> str:
    is_place = registry.looks_like_path(name) and not name.startswith(HUB)
    return os.path.abspath(os.path.expanduser(name)) if is_place else name


def _candidates(
    config: CompareConfig, prepared: Prepared, task: Task, *, resume: bool, offline: bool, emit: EventSink
) -> tuple[Candidate, ...]:
    """Check every model as `train` does. Raises `ConfigError` with the faults of all models."""
    explicit, faults = _explicit_rates(config)
    found: list[Candidate] = []
    names = run_names(config.models)
    for number, model in enumerate(config.models):
        run = config.out / "runs" / names[number]
        rate = explicit.get(same_model(model), config.lr)
        try:
            settings = _training(config, model, run, rate)
            # force: existing output was checked for the comparison as a whole; a run inside may be started or finished.
            checked = train_checks.preflight(
                settings, force=True, offline=offline, resume=resume, in_worker=True, emit=emit
            )
            if checked.family not in task.promptable:
                raise UsageError(
                    f"{model} can be trained on {task.name} but cannot be prompted, so it cannot be scored",
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
        problem = f"the search needs a validation split, which {config.data} does not have"
        faults.append(Fault("lr", problem, "use --lr RATE, or --set search.rates=1 for the model defaults"))
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return tuple(found)


def _of(model: str, number: int, fault: Fault) -> Fault:
    """Convert a fault of one model's training configuration to one of the comparison."""
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
    """Resolve the names in `lrs`; return the rates, and faults for names that match no model."""
    known = {same_model(model) for model in config.models}
    rates: dict[str, float] = {}
    faults: list[Fault] = []
    for name, rate in config.lrs.items():
        try:
            model = same_model(name)
        except (UsageError, KeyError):
            model = name
        if model not in known:
            hint = registry.near(name, config.models) or f"models: {', '.join(config.models)}"
            faults.append(Fault(f"lrs.{name}", "is not a model in the comparison", hint))
        elif model in rates:
            faults.append(Fault(f"lrs.{name}", "is given twice"))
        rates[model] = rate
    return rates, faults


def _rates(config: CompareConfig, checked: train_checks.TrainPlan) -> tuple[float, ...]:
    """The default learning rate of the model, and equally many smaller and larger ones."""
    default = checked.config.optimizer.lr
    assert default is not None
    each_side = config.search.rates // 2
    powers = range(-each_side, each_side + 1)
    return tuple(float(f"{default * RATES_APART**power:.3g}") if power else default for power in powers)


def run_names(models: Sequence[str]) -> list[str]:
    """A unique folder name for each model: `gpt2:nano` -> `gpt2-nano`; for a path, its last part other than `model`."""
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
        with locks.locked(out):  # raises `BusyError`, which names the owner
            pass
    if not resume and not _has_no_output(out):
        atomic.refuse_existing(out, force=force, marker=COMPARISON, go_on=f"llmctl compare --resume {quoted(out)}")
    train_checks.refuse_inside_run(out)
    atomic.refuse_same(out, [config.data])


def _check_room(out: Path, trainings: Sequence[train_checks.TrainPlan]) -> None:
    atomic.refuse_same(out, [each.pretrained_folder.path for each in trainings if each.pretrained_folder is not None])
    needed = sum(train_checks.bytes_needed(each) for each in trainings)
    atomic.check_writable(out / "runs", bytes_needed=needed)


def _has_no_output(out: Path) -> bool:
    """Whether an earlier process was killed in this folder before it wrote any output."""
    hidden = (locks.NAME, atomic.TEMPORARY)
    return out.is_dir() and all(each.name.startswith(hidden) for each in out.iterdir())


def _found(out: Path) -> Mapping[str, Any]:
    """Read `compare.json`. Raises `IntegrityError` if it is invalid."""
    path = out / COMPARISON
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and all(isinstance(row["model"], str) and row["status"] for row in value["rows"]):
            return value
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            "was not written by llmctl compare", where=str(path), hint="start over with --force"
        ) from error
    raise IntegrityError("was not written by llmctl compare", where=str(path), hint="start over with --force")


def check_same(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if `requested` changes a recorded setting, which would make it a different comparison."""
    started_with = combine(CompareConfig, [recorded])
    before = _comparable(validate(CompareConfig, started_with))
    after = _comparable(validate(CompareConfig, merge(started_with, combine(CompareConfig, [requested]))))
    faults = [
        Fault(
            path, f"the comparison was started with {was}, not {now}", "omit it, or start another comparison with --out"
        )
        for name in before
        for path, was, now in differing(name, before[name], after[name])
        if was != now
    ]
    if faults:
        raise ConfigError(faults)


def check_recorded(out: Path, recorded: Mapping[str, Any]) -> None:
    """Raise `IntegrityError` where config.yaml has other settings than the comparison was started with."""
    where, hint = out / CONFIG, "undo the change; for other settings start another comparison: --out"
    try:
        found = _comparable(validate(CompareConfig, combine(CompareConfig, [recorded])))
        started_with = _found(out).get("settings") if (out / COMPARISON).is_file() else None
        if not started_with:
            return  # of version 0.1, or killed before it wrote anything
        expected = _comparable(validate(CompareConfig, started_with))
    except ConfigError as error:
        raise IntegrityError(f"damaged or edited: {error.faults[0]}", where=str(where), hint=hint) from error
    changed = [
        f"{path} is {now}, the comparison was started with {was}"
        for name in {**expected, **found}
        for path, was, now in differing(name, expected.get(name), found.get(name))
        if was != now
    ]
    if changed:
        raise IntegrityError(
            f"edited since the comparison was started: {'; '.join(changed)}", where=str(where), hint=hint
        )


def _comparable(config: CompareConfig) -> dict[str, Any]:
    return _resolve(config).model_dump(mode="json", exclude={"out"}, exclude_none=True)
