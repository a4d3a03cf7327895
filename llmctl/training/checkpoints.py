"""Checkpoints: the full state of a run at a step, written atomically, with a hash of every file.

    checkpoints/step-00000200/
      model.safetensors       weights; only the trainable ones if some are frozen
      optimizer.safetensors   the optimizer's state, `parameter|slot`
      state.json              position, best, patience
      MANIFEST.json           sha256 of the other files, written last

Batches and dropout are functions of (seed, step), so nothing else is needed to resume bit for bit.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from llmctl.errors import IntegrityError
from llmctl.store import atomic
from llmctl.store.runs import CHECKPOINTS, Origin
from llmctl.training import optimizers
from llmctl.training.loop import Position

MANIFEST: Final = "MANIFEST.json"
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
    """Whether the order of examples is that of keyed permutations (`data/batches.py`); older checkpoints say nothing."""


def folder_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08d}"


def save(
    run: Path,
    state: TrainingState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    origin: Origin,
    history: Mapping[str, Any],
) -> Path:
    """Write a checkpoint for the current step and return its folder. `history`: see `History.mark`."""
    path = folder_of(run, state.position.step)
    with atomic.atomic_folder(path, force=True) as folder:
        if trainable := _trainable_weights(model):
            save_file(trainable, str(folder / "model.safetensors"))
        else:
            save_model(model, str(folder / "model.safetensors"))
        save_file(optimizers.state_tensors(optimizer, model), str(folder / "optimizer.safetensors"))
        full = asdict(state) | {"history": dict(history), "origin": origin._asdict()}
        atomic.write_text(folder / "state.json", json.dumps(full, indent=2, default=str) + "\n")
        names = sorted(each.name for each in folder.iterdir())
        atomic.write_json(folder / MANIFEST, {"sha256": {name: atomic.sha256(folder / name) for name in names}})
    return path


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
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} is missing or broken"
    if not isinstance(hashes, dict):
        return f"{MANIFEST} is missing or broken"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        file = path / name
        if name not in hashes or not file.is_file():
            return f"{name} is missing"
        if atomic.sha256(file) != hashes[name]:
            return f"{name} has changed since it was written (its hash differs)"
    step = read_state(path).position.step
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


def _state(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return value


def read_state(path: Path) -> TrainingState:
    value = _state(path)
    best = BestCheckpoint(**value["best"]) if value.get("best") else None
    made = {"position": Position(**value["position"]), "best": best, "window": tuple(value.get("window", ()))}
    return TrainingState(**{name: each for name, each in value.items() if name not in ("history", "origin")} | made)


def read_history(path: Path) -> dict[str, Any]:
    """The checkpoint's mark of `metrics.jsonl` (`History.mark`); empty if version 0.1 wrote it."""
    return dict(_state(path).get("history", {}))


def read_origin(path: Path) -> Origin:
    """What the run was started with, as of this checkpoint; empty if version 0.1 wrote it."""
    return Origin(**_state(path).get("origin", {}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the weights of a checkpoint into a model. Raises `IntegrityError` if they do not fit."""
    trainable = _trainable_weights(model)
    try:
        if trainable:
            _restore(trainable, load_file(str(path / "model.safetensors")))
        else:
            load_model(model, str(path / "model.safetensors"))
    except (RuntimeError, OSError) as error:
        raise IntegrityError(f"the weights do not fit the model: {error}", where=str(path)) from error


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


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizers.load_state(optimizer, model, load_file(str(path / "optimizer.safetensors")))


def prune(run: Path, *, keep: int, best: BestCheckpoint | None) -> None:
    """Remove all but the `keep` newest checkpoints and the best one."""
    best_name = folder_of(run, best.step).name if best else None
    for path in all_of(run)[keep:]:
        if path.name != best_name:
            shutil.rmtree(path)
