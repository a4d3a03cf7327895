"""Checks for resuming: the same run continues, on the same data and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.config import Spec, combine, merge, validate
from llmctl.errors import ConfigError, Fault, IntegrityError, UsageError
from llmctl.settings import differing
from llmctl.store import runs
from llmctl.store.safety import check_regular
from llmctl.types import Event, EventSink
from llmctl.workflows.train.spec import TrainConfig

CHANGEABLE: Final = frozenset(
    [
        "epochs",
        "max_steps",
        "max_tokens",
        "max_time",
        "patience",
        "eval_every",
        "save_every",
        "keep_checkpoints",
        "log_every",
        "micro_batch_size",
        "parallel",
        "activation_checkpointing",
        "cpu_offload",
        "prefetch",
        "tracker",
        "processes",
        "machines",
        "machine_rank",
        "main_address",
        "out",
    ]
)
"""Settings that may change when a run is resumed."""


PER_MACHINE: Final = {
    *("data", "out", "machine_rank", "main_address", "processes"),
    *("micro_batch_size", "keep_checkpoints", "log_every", "prefetch"),
}
"""Settings that may differ between the machines of a run."""


def same_on_all_machines(config: TrainConfig, parents: Mapping[str, str]) -> dict[str, Any]:
    """What all machines of a run must agree on; pretrained weights by their content, wherever they are."""
    settings = config.model_dump(mode="json", exclude=set(PER_MACHINE))
    return settings | ({"model": parents["model"]} if "model" in parents else {})


def check_same(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for settings that a resumed run may not change."""
    started_with = combine(TrainConfig, [recorded])
    before = validate(TrainConfig, started_with)
    after = validate(TrainConfig, merge(started_with, combine(TrainConfig, [requested])))
    faults = []
    for name in TrainConfig.model_fields:
        if name in CHANGEABLE or _comparable(name, before) == _comparable(name, after):
            continue
        for path, was, now in differing(name, _comparable(name, before), _comparable(name, after)):
            faults.append(
                Fault(path, f"the run was started with {was}, not {now}", "leave it out, or start another run")
            )
    if faults:
        raise ConfigError(faults)


def check_recorded(out: Path, recorded: Mapping[str, Any]) -> None:
    """Raise `IntegrityError` where config.yaml has other settings than the run was started with.

    Paths are left to `check_same_parents`, which compares what they hold: data may be moved. Runs of version 0.1 kept no
    second copy of their settings, so only their form is checked.
    """
    where, hint = out / runs.CONFIG, "undo the change; for other settings start another run: --out"
    try:
        found = validate(TrainConfig, combine(TrainConfig, [recorded]))
    except ConfigError as error:
        raise IntegrityError(f"damaged or edited: {error.faults[0]}", where=str(where), hint=hint) from error
    if not (started_with := runs.origin(out).settings):
        return
    try:
        expected = validate(TrainConfig, started_with)
    except ConfigError as error:
        raise IntegrityError(f"settings.{error.faults[0]}", where=str(out / runs.RUN), hint=hint) from error
    changed = [
        f"{path} is {now}, the run was started with {was}"
        for name in TrainConfig.model_fields
        if name not in CHANGEABLE
        and name != "data"
        and not (name == "model" and _is_path(expected) and _is_path(found))
        for path, was, now in differing(name, _comparable(name, expected), _comparable(name, found))
        if was != now
    ]
    if changed:
        raise IntegrityError(f"edited since the run was started: {'; '.join(changed)}", where=str(where), hint=hint)


def _is_path(config: TrainConfig) -> bool:
    return registry.looks_like_path(config.model.name)


def check_resumable(out: Path, emit: EventSink) -> None:
    """Warn of a lost record, which is written again.

    Raises `IntegrityError` if a file of the run is a pipe or device, or if all checkpoints of a run are gone: starting from the beginning would replace its model.
    """
    for name in (runs.RUN, runs.CONFIG, runs.METRICS, "log.txt"):
        check_regular(out / name)
    record = None
    try:
        record = runs.read(out)
    except (UsageError, IntegrityError):
        lost = "damaged" if (out / runs.RUN).exists() else "missing"
        text = f"{out / runs.RUN} is {lost}: writing it again from {runs.CONFIG} and the checkpoints"
        emit(Event("warning", {"text": text}))
    if any((out / runs.CHECKPOINTS).glob("step-*")):
        return
    if (out / "model").exists() or (record is not None and record.result.get("steps")):
        raise IntegrityError(
            f"the checkpoints of {out} are gone: training would start from the beginning and replace its model",
            hint="restore them, train on from the model (--model RUN --out OTHER), or start again with --force",
        )


def _comparable(name: str, config: TrainConfig) -> Any:
    if name == "data":
        return os.path.abspath(config.data)
    if name == "model" and registry.looks_like_path(config.model.name):
        return os.path.abspath(config.model.name)
    value = getattr(config, name)
    return value.model_dump(exclude_none=True) if isinstance(value, Spec) else value


def check_same_parents(config: TrainConfig, parents: Mapping[str, str]) -> None:
    """Raise `UsageError` where the data or pretrained weights of the run have since been replaced in place."""
    if config.adapter is not None:
        _check_same_base(config, parents)
    before = runs.origin(config.out).parents
    for name, place in (("data", config.data), ("model", config.model.name)):
        if name in before and before[name] != parents.get(name):
            raise UsageError(
                f"{place} has changed since the run {config.out} was started",
                hint="restore it, or start another run: --out",
            )


def _check_same_base(config: TrainConfig, parents: Mapping[str, str]) -> None:
    """Raise `IntegrityError` where the base differs: a checkpoint holds only the adapter, which fits no other base."""
    if (was := runs.origin(config.out).parents.get("model")) not in (None, parents["model"]):
        raise IntegrityError(
            f"{config.model.name} is not the base that the run was started on: its hash differs",
            where=str(config.out / runs.RUN),
            hint=f"restore it (model {was}), or start another run",
        )
