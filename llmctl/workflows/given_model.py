"""A model that has weights, looked at before they are read: where it is, and how it wants to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from llmctl import registry
from llmctl.errors import IntegrityError, UsageError
from llmctl.models import families
from llmctl.store.models import ModelFolder, open_model
from llmctl.tasks.spec import Task
from llmctl.types import Family
from llmctl.workflows import hub
from llmctl.workflows.spec import HUB, looks_like_path

PADDING_SHARE: Final = 0.05
PADDING_LEAST: Final = 128
"""Models carry rows behind the tokenizer's last entry so that their number divides well: never more than these."""


@dataclass(frozen=True, slots=True)
class GivenModel:
    """`style` is the card's where it was made for this task; None: to be found by the tokenizer."""

    reference: str
    folder: ModelFolder
    task: Task
    family: Family
    style: str | None
    labels: tuple[str, ...]

    def check_vocabulary(self, tokenizer_size: int) -> None:
        """Raise `UsageError` with both numbers where the tokenizer is not the one of the weights."""
        size = self.folder.config.get("vocab_size")
        if not isinstance(size, int):
            return
        spare = size - tokenizer_size
        if spare < 0 or spare > max(PADDING_LEAST, PADDING_SHARE * size):
            raise UsageError(
                f"the tokenizer has {tokenizer_size:,} entries, the model {size:,}: they do not belong together",
                where=str(self.folder.path),
                hint="copy the model's own tokenizer files into its folder",
            )


def find_model(reference: str, *, task: str | None = None, offline: bool = False) -> GivenModel:
    """Look at a run, a model folder or `hf:ID`; nothing heavy is imported.

    `task` overrides what the model folder says; a folder without a card is asked as a chat model if its tokenizer has
    a chat template, else as a language model. Raises `UsageError` where there is no model, or where it cannot express
    the task; `IntegrityError` and `EnvironmentFault` as `open_model` and `hub.folder` do.
    """
    folder = open_model(local_folder(reference, offline=offline))
    if not folder.has_tokenizer:
        raise UsageError(
            f"{folder.path} has no tokenizer", hint="copy tokenizer.json and tokenizer_config.json into it"
        )
    card = folder.card
    name = task or (card.task if card else "chat" if folder.has_chat_template else "language-modeling")
    wanted: Task = registry.load("tasks", name)()
    family = _family(folder)
    if family not in wanted.families:
        able = " or ".join(wanted.families)
        raise UsageError(
            f"the task {wanted.name} needs a model of the family {able}; {reference} is of the family {family}",
            hint="name another model, or another task with --task",
        )
    own = card is not None and card.task == wanted.name
    labels = (card.labels if card else ()) or _labels(folder.config)
    return GivenModel(
        reference=reference,
        folder=folder,
        task=wanted,
        family=family,
        style=card.style if card and own else None,
        labels=labels if wanted.labelled else (),
    )


def local_folder(reference: str, *, offline: bool = False) -> Path:
    """The folder of a run, of a model, or of `hf:ID`. Raises `UsageError` for an architecture, which has no weights."""
    if reference.startswith(HUB):
        return hub.folder(reference, offline=offline)
    if not looks_like_path(reference):
        raise UsageError(
            f"{reference} is an architecture without weights: there is nothing to ask yet",
            hint=f"train it (llmctl train --model {reference}) and name the run",
        )
    return Path(reference).expanduser()


def _family(folder: ModelFolder) -> Family:
    if folder.card is None:
        return families.family_of(folder.config)
    for family in get_args(Family):
        if folder.card.family == family:
            found: Family = family
            return found
    raise IntegrityError(f"no such family: {folder.card.family!r}", where=f"{folder.path}/llmctl.json:family")


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Labels by number, as transformers writes them."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(number).isdecimal() for number in named):
        return ()
    return tuple(str(label) for _, label in sorted(named.items(), key=lambda item: int(item[0])))
