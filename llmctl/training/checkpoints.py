"""Checkpoints: the full state of a run at a step, written atomically, with a hash of every file.

    checkpoints/step-00000200/
      model.safetensors       weights; only the trainable ones if some are frozen
      optimizer.safetensors   the optimizer's state, `parameter|slot`
      state.json              position, best, patience
      MANIFEST.json           sha256 of the other files, written last

Several processes write `shard-00001-….safetensors` and so on in place of the first two, each its part of both. Either kind
is resumed by any number of processes.

Batches and dropout are functions of (seed, step), so nothing else is needed to resume bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from typing_extensions import TypedDict

from llmctl.errors import IntegrityError
from llmctl.store import atomic
from llmctl.store.runs import CHECKPOINTS, Origin
from llmctl.store.safety import read_json
from llmctl.training import meeting, optimizers, shards
from llmctl.training.loop import Position
from llmctl.training.parallel import Strategy

MANIFEST: Final = "MANIFEST.json"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
SHARD: Final = "shard-"
"""The beginning of the name of a file that one of several processes wrote."""
_NAME: Final = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The best evaluation so far."""

    step: int
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state in a checkpoint other than tensors."""

    position: Position
    best: BestCheckpoint | None = None
    waited: int = 0
    """Evaluations since the best one."""
    evaluated_step: int = -1
    validation: Mapping[str, float] = field(default_factory=dict)
    """Scores of the latest evaluation, at `evaluated_step`."""
    train_loss: float = float("nan")
    window: tuple[float, ...] = ()
    """Losses of the steps since the last row of `metrics.jsonl`, whose mean the next row holds."""
    lr: float | None = None
    """Learning rate of the last step."""
    keyed: bool = False
    """Whether the order of examples is that of keyed permutations (`data/examples/batches.py`); older checkpoints say nothing."""


class _Others(TypedDict, total=False):
    """What `state.json` holds besides the state; version 0.1 wrote neither."""

    history: dict[str, Any]
    origin: dict[Literal["settings", "parents"], dict[str, Any]]


_STATES: Final = TypeAdapter(TrainingState)
_OTHERS: Final = TypeAdapter(_Others)


def folder_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08d}"


def save(
    strategy: Strategy,
    run: Path,
    state: TrainingState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    origin: Origin,
    history: Mapping[str, Any] | None,
    shared: bool = True,
) -> None:
    """Write a checkpoint for the current step; every process of the run calls it.

    `history`: see `History.mark`; None in all but the main process. `shared`: all processes see the run folder. If they do
    not, the main process gathers the tensors and writes whole ones.
    """
    path = folder_of(run, state.position.step)
    if strategy.alone or not shared:
        write = _whole_files(strategy, model, optimizer)
        if history is not None:
            with atomic.atomic_folder(path, force=True) as folder:
                write(folder)
                _finish(
                    folder, state, origin, history, {name: atomic.sha256(folder / name) for name in (MODEL, OPTIMIZER)}
                )
        return
    with atomic.atomic_folder(path, force=True) if history is not None else contextlib.nullcontext(path) as made:
        folder = path.parent / meeting.from_main(lambda: made.name)
        shards.write(folder, _tensors(model) | optimizers.state_tensors(optimizer, model))
        own = folder.glob(f"{SHARD}{strategy.rank + 1:05d}-*")
        hashes = strategy.gather_objects({each.name: atomic.sha256(each) for each in own})
        if history is not None:
            _finish(folder, state, origin, history, {name: each for part in hashes for name, each in part.items()})


def _whole_files(strategy: Strategy, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Path], None]:
    """What writes whole tensors into a folder; gathers them first if the processes hold parts."""
    slots = optimizers.state_tensors(optimizer, model)
    if not strategy.sharded:
        trainable = _trainable_weights(model)

        def write(folder: Path) -> None:
            if trainable:
                save_file(trainable, str(folder / MODEL))
            else:
                save_model(model, str(folder / MODEL))
            save_file(slots, str(folder / OPTIMIZER))

        return write
    weights, slots = _gathered(strategy, _tensors(model)), _gathered(strategy, slots)

    def write_gathered(folder: Path) -> None:
        save_file(weights, str(folder / MODEL))
        save_file(slots, str(folder / OPTIMIZER))

    return write_gathered


def _gathered(strategy: Strategy, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors on the CPU of the main process; empty in the others."""
    found = {}
    for name, each in tensors.items():
        full = shards.whole(each)
        if strategy.rank == 0:
            found[name] = full.cpu()
    return found


def _finish(
    folder: Path, state: TrainingState, origin: Origin, history: Mapping[str, Any], hashes: Mapping[str, str]
) -> None:
    """Write what is not tensors, and the manifest last."""
    full = asdict(state) | {"history": dict(history), "origin": origin._asdict()}
    atomic.write_text(folder / STATE, json.dumps(full, indent=2, default=str) + "\n")
    found = {**hashes, STATE: atomic.sha256(folder / STATE)}
    atomic.write_json(folder / MANIFEST, {"sha256": dict(sorted(found.items()))})


def all_of(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    folder = run / CHECKPOINTS
    found = [each for each in folder.iterdir() if _NAME.fullmatch(each.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def fault(path: Path) -> str | None:
    """Why a checkpoint is not intact, or None if it is. Hashes every file."""
    try:
        hashes = read_json(path / MANIFEST)["sha256"]
    except (IntegrityError, KeyError):
        return f"{MANIFEST} is missing or broken"
    if not isinstance(hashes, dict):
        return f"{MANIFEST} is missing or broken"
    sharded = any(str(name).startswith(SHARD) for name in hashes)
    present = [each.name for each in path.glob("*.safetensors")]
    for name in sorted({STATE, *hashes, *present} if sharded else {MODEL, OPTIMIZER, STATE, *present}):
        file = path / name
        if name not in hashes or not file.is_file():
            return f"{name} is missing"
        if atomic.sha256(file) != hashes[name]:
            return f"{name} has changed since it was written (its hash differs)"
    try:
        step = read_state(path).position.step
    except IntegrityError as error:
        return f"{STATE} is not as llmctl writes it: {error.message}"
    return None if step == step_of(path) else f"it holds step {step}: the folder was renamed from step-{step:08d}"


def newest_intact(run: Path) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint (None if there are no checkpoints), and what is wrong with each newer one.

    Raises `IntegrityError` if none of them is intact.
    """
    refused: list[str] = []
    for path in all_of(run):
        problem = fault(path)
        if problem is None:
            return path, refused
        refused.append(f"{path.name}: {problem}")
    if refused:
        raise IntegrityError(
            f"no checkpoint in {run} is intact: {'; '.join(refused[:5])}",
            hint="start again with --force, or use another --out",
        )
    return None, refused


def read_state(path: Path) -> TrainingState:
    """The state of a checkpoint. Raises `IntegrityError` for one that llmctl did not write."""
    value = read_json(path / STATE)
    try:
        _OTHERS.validate_python({name: value[name] for name in ("history", "origin") if name in value})
        own = {name: each for name, each in value.items() if name not in ("history", "origin")}
        state: TrainingState = _STATES.validate_python(own)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{key}: {first['msg'].lower()}", where=str(path / STATE)) from error
    return state


def read_history(path: Path) -> dict[str, Any]:
    """The checkpoint's mark of `metrics.jsonl` (`History.mark`); empty if version 0.1 wrote it."""
    return dict(read_json(path / STATE).get("history", {}))


def read_origin(path: Path) -> Origin:
    """What the run was started with, as of this checkpoint; empty if version 0.1 wrote it."""
    return Origin(**read_json(path / STATE).get("origin", {}))


def load_weights(path: Path, model: nn.Module, *, together: bool = False) -> None:
    """Load the weights of a checkpoint into a model; `together`: every process calls it, for the parts that it holds.

    Raises `IntegrityError` if they do not fit.
    """
    if not together and (path / MODEL).is_file():
        _load_whole(path, model)
        return
    shards.read(path, _as_named_in(shards.shapes(path), model, _tensors(model)), together=together)


def whole_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a checkpoint on the CPU, under their names in a model of which this process holds parts."""
    found = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in _tensors(model).items()}
    shards.read(path, _as_named_in(shards.shapes(path), model, found), together=False)
    return found


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, together: bool = False) -> None:
    if not together and (path / OPTIMIZER).is_file():
        optimizers.load_state(optimizer, model, load_file(str(path / OPTIMIZER)))
        return
    slots = optimizers.empty_state(model, shards.shapes(path))
    shards.read(path, slots, together=together)
    optimizers.load_state(optimizer, model, slots)


def _load_whole(path: Path, model: nn.Module) -> None:
    trainable = _trainable_weights(model)
    try:
        if trainable:
            _restore(trainable, load_file(str(path / MODEL)))
        else:
            load_model(model, str(path / MODEL))
    except (RuntimeError, OSError) as error:
        raise IntegrityError(f"the weights do not fit the model: {error}", where=str(path)) from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint keeps of a model, each tensor under one name: all weights and buffers, or the trainable weights if
    some are frozen."""
    state: dict[str, Tensor] = model.state_dict()
    trainable = _trainable_weights(model)
    buffers = {name for name, _ in model.named_buffers() if name in state}
    names = trainable or {name for name, _ in model.named_parameters()} | buffers
    return {name: each for name, each in state.items() if name in names}


def _as_named_in(files: Container[str], model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names in the files, which may hold a tied weight under another of its names."""
    by_weight: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        by_weight.setdefault(id(weight), []).append(name)
    aliases = {name: names for names in by_weight.values() for name in names}
    return {next((other for other in aliases.get(name, ()) if other in files), name): t for name, t in tensors.items()}


def _trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights if some are frozen; empty if all are trainable."""
    weights = dict(model.named_parameters())
    trainable = {name: weight.data for name, weight in weights.items() if weight.requires_grad}
    return trainable if len(trainable) < len(weights) else {}


def _restore(weights: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
    if {name: each.shape for name, each in kept.items()} != {name: each.shape for name, each in weights.items()}:
        raise RuntimeError("their names or shapes differ from those of the trainable weights")
    for name, weight in weights.items():
        weight.copy_(kept[name])


def prune(run: Path, *, keep: int, best: BestCheckpoint | None) -> None:
    """Remove all but the `keep` newest checkpoints and the best one."""
    best_name = folder_of(run, best.step).name if best else None
    for path in all_of(run)[keep:]:
        if path.name != best_name:
            shutil.rmtree(path)
