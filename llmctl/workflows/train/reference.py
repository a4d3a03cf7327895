"""The reference model of preference tuning: its log-probabilities, computed once and kept in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from llmctl.data.examples.pairs import Pairs
from llmctl.store import atomic
from llmctl.store.safety import read_json
from llmctl.training.objectives import LikelihoodObjective
from llmctl.training.preference import reference_logprobs
from llmctl.types import Event, EventSink, Precision
from llmctl.workflows.train.assemble import HASHES, Parts
from llmctl.workflows.train.checks import TrainPlan

FOLDER: Final = "reference"


def with_reference(
    parts: Parts,
    plan: TrainPlan,
    likelihood: LikelihoodObjective,
    accelerator: Any,
    precision: Precision,
    emit: EventSink,
) -> Parts:
    """The parts with the log-probabilities of all pairs by the model as it is now, before its first step.

    They are kept in RUN/reference, so that a resumed run does not compute them again.
    """
    splits = {name: each for name in ("train", "validation") if isinstance(each := getattr(parts, name), Pairs)}
    folder, made_by = (
        plan.config.out / FOLDER,
        {**plan.parents, "precision": precision, "max_length": plan.config.max_length},
    )
    main = bool(accelerator.is_main_process)
    kept = [_read(folder, made_by, splits) if main else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(kept)
    found = kept[0]
    if found is None:
        emit(Event("note", {"text": "computing the log-probabilities of the reference model"}))
        found = {
            name: reference_logprobs(likelihood, pairs, accelerator, batch_size=plan.config.batch_size)
            for name, pairs in splits.items()
        }
        if main:
            _write(folder, made_by, found)
    changed: dict[str, Any] = {name: replace(pairs, reference=found[name]) for name, pairs in splits.items()}
    return replace(parts, **changed)


def _read(folder: Path, made_by: dict[str, Any], splits: dict[str, Pairs]) -> dict[str, NDArray[np.float32]] | None:
    """What an earlier start of the run computed; None if it is absent, damaged, or of other data or weights."""
    path = folder / HASHES
    if not path.is_file():
        return None
    record = read_json(path)
    files = {
        f"{name}.npy": atomic.sha256(folder / f"{name}.npy") for name in splits if (folder / f"{name}.npy").is_file()
    }
    if record != {"made_by": made_by, "files": files}:
        return None
    found = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in splits}
    return found if all(len(found[name]) == len(pairs) for name, pairs in splits.items()) else None


def _write(folder: Path, made_by: dict[str, Any], found: dict[str, NDArray[np.float32]]) -> None:
    with atomic.atomic_folder(folder, force=True) as made:
        for name, values in found.items():
            np.save(made / f"{name}.npy", values, allow_pickle=False)
        files = {path.name: atomic.sha256(path) for path in sorted(made.iterdir())}
        atomic.write_json(made / HASHES, {"made_by": made_by, "files": files})
