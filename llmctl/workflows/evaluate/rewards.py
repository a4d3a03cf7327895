"""Rewards of preference pairs under a model, relative to its reference model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl import registry
from llmctl.errors import ConfigError, Fault, IntegrityError, UsageError
from llmctl.models.resolve import PARENT, PARENT_PATH
from llmctl.store.models import content_hash, open_model
from llmctl.tasks.spec import Task
from llmctl.training.spec import Dpo
from llmctl.types import Answer, Record
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.inference.model import ModelHandle, find_model

if TYPE_CHECKING:
    from llmctl.workflows.inference.session import Predictor

PAIRS_AT_ONCE: Final = 256
HINT: Final = "name it: --set reference=DIR"


def pairs_task(name: str | None) -> Task | None:
    """The task of this name, if its records are preference pairs."""
    task: Task | None = registry.load("tasks", name)() if name else None
    return task if task is not None and task.pairs else None


def beta_of(handle: ModelHandle) -> float:
    """The scale of rewards: of the model's training, else the default."""
    card = handle.folder.card
    return Dpo.model_validate(card.preference or {}).beta if card else Dpo().beta


def reference_of(config: EvalConfig, handle: ModelHandle, task: Task, **opening: Any) -> ModelHandle | None:
    """The reference model of preference pairs: the one named, the base of an adapter, or the weights that training
    started from; None for another `task`.

    Raises `UsageError` if it is unknown or missing, `IntegrityError` if it has changed since.
    """
    if not task.pairs:
        if config.reference is not None:
            raise ConfigError([Fault("reference", f"is for preference pairs, {task.name} has none", "leave it out")])
        return None
    if handle.server is not None:
        raise UsageError(f"{handle.reference} is behind a server, which does not score preference pairs")
    folder = handle.folder
    place, recorded = config.reference, None
    if place is None and folder.base is not None:
        place = folder.base
    elif place is None and folder.card is not None and folder.card.preference is not None:
        recorded = folder.card.parents.get(PARENT)
        path = folder.card.parents.get(PARENT_PATH)
        place = Path(path) if path else None
    if place is None:
        raise UsageError(
            f"{config.model} was not trained on preference pairs: its reference model is unknown", hint=HINT
        )
    if not place.exists():
        raise UsageError(f"the reference model of {config.model} is missing: {place}", hint=HINT)
    found = find_model(str(place), task=handle.task.name, **opening)
    if recorded is not None and content_hash(open_model(found.folder.path).path) != recorded:
        raise IntegrityError(
            f"{place} is not the model that training started from: its hash differs",
            where=str(folder.path),
            hint=f"restore it, or {HINT}",
        )
    return found


def reward_margins(
    pairs: Task, records: Sequence[Record], model: Predictor, reference: Predictor, *, beta: float, batch_size: int
) -> Iterator[Answer]:
    """β (log π/π_ref of the preferred answer - log π/π_ref of the other one) of each record, in nats."""
    for first in range(0, len(records), PAIRS_AT_ONCE):
        part = records[first : first + PAIRS_AT_ONCE]
        found = []
        for each in (model, reference):
            requests = [request for record in part for request in each.request_builder.pair_requests(pairs, record)]
            found.append([scored.logprob for scored in each.engine.score(requests, batch_size=batch_size)])
        ratios = [own - other for own, other in zip(*found, strict=True)]
        for record, chosen, rejected in zip(part, ratios[::2], ratios[1::2], strict=True):
            yield Answer(id=record.id, references=pairs.references(record), reward_margin=beta * (chosen - rejected))
