"""Checks for resuming: the same run continues, on the same data and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from llmctl import registry
from llmctl.config import Spec, combine, merge, validate
from llmctl.errors import ConfigError, Fault, IntegrityError, UsageError
from llmctl.store import runs
from llmctl.workflows.settings import differing
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
        "processes",
        "machines",
        "machine_rank",
        "main_address",
        "out",
    ]
)
"""Settings that may change when a run is resumed."""


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
    before = runs.read(config.out).parents
    for name, place in (("data", config.data), ("model", config.model.name)):
        if name in before and before[name] != parents.get(name):
            raise UsageError(
                f"{place} has changed since the run {config.out} was started",
                hint="restore it, or start another run: --out",
            )


def _check_same_base(config: TrainConfig, parents: Mapping[str, str]) -> None:
    """Raise `IntegrityError` where the base differs: a checkpoint holds only the adapter, which fits no other base."""
    if (was := runs.read(config.out).parents.get("model")) != parents["model"]:
        raise IntegrityError(
            f"{config.model.name} is not the base that the run was started on: its hash differs",
            where=str(config.out / runs.RUN),
            hint=f"restore it (model {was}), or start another run",
        )
