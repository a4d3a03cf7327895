"""A model that has weights, looked at before they are read: where it is, and how it wants to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from llmctl import registry
from llmctl.errors import IntegrityError, UsageError
from llmctl.models import families
from llmctl.models.resolve import open_weights
from llmctl.store.models import ModelFolder
from llmctl.tasks.spec import Task
from llmctl.types import EventSink, Family, null_sink
from llmctl.workflows.compatibility import check_instruction, resolve_instruction

PADDING_SHARE: Final = 0.05
PADDING_LEAST: Final = 128
"""Models carry rows behind the tokenizer's last entry so that their number divides well: never more than these."""


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """`prompt_format` and `stored_instruction` are the card's where it was made for this task; None: to be found by the tokenizer and the
    task."""

    reference: str
    folder: ModelFolder
    task: Task
    family: Family
    prompt_format: str | None
    labels: tuple[str, ...]
    stored_instruction: str | None = None
    """What it learned to be told to do, labels included."""
    instruction: str | None = None
    """What the user wants it to be told in the place of that."""

    def instruct(self) -> str:
        """What it is told to do."""
        return resolve_instruction(self.task, self.labels, self.instruction, self.stored_instruction)

    def choosing(self, labels: Sequence[str] = (), *, calibrate: bool = False) -> ModelHandle:
        """The same model, choosing among these labels; among its own where none are given.

        Raises `UsageError` where there are none to choose among, where it has a head for other ones, and where it does
        not choose at all.
        """
        if not self.task.labelled:
            if labels or calibrate:
                raise UsageError(f"{self.task.name} has no labels to choose among")
            return self
        if not labels and not self.labels:
            raise UsageError(f"{self.reference} names no labels", hint="name them: --set 'labels=[bad, good]'")
        if self.family == "encoder":
            if calibrate:
                raise UsageError(f"{self.reference} has a head for its labels: there is nothing to calibrate")
            if labels and sorted(labels) != sorted(self.labels):
                known = ", ".join(self.labels[:5]) or "none"
                raise UsageError(
                    f"{self.reference} has a head for other labels ({known}) than {', '.join(labels[:5])}",
                    hint="train it on data with these labels",
                )
            return self
        return replace(self, labels=tuple(labels) or self.labels)

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


def find_model(
    reference: str,
    *,
    task: str | None = None,
    otherwise: str | None = None,
    instruction: str | None = None,
    base: Path | None = None,
    offline: bool = False,
    emit: EventSink = null_sink,
) -> ModelHandle:
    """Look at given weights (see `weights.open_weights`) as something to be asked.

    `task` overrides what the model folder says. A folder without a card is asked `otherwise`; where that is not known
    as a chat model if its tokenizer has a chat template, else as a language model. Raises `UsageError` where there is no
    model, or where it cannot express the task, `ConfigError` for an `instruction` that it would not read, and what
    `open_weights` does.
    """
    folder = open_weights(reference, base=base, offline=offline, emit=emit)
    if not folder.has_tokenizer:
        raise UsageError(
            f"{folder.path} has no tokenizer", hint="copy tokenizer.json and tokenizer_config.json into it"
        )
    card = folder.card
    name = task or (card.task if card else otherwise) or ("chat" if folder.has_chat_template else "language-modeling")
    wanted: Task = registry.load("tasks", name)()
    family = _family(folder)
    if family not in wanted.promptable:
        able = " or ".join(wanted.promptable)
        raise UsageError(
            f"the task {wanted.name} needs a model of the family {able}; {reference} is of the family {family}"
            + (": it can be fine-tuned, not asked" if family in wanted.families else ""),
            hint=f"train it on another task: llmctl train --model {reference} --data DIR"
            if family in wanted.families
            else "name another model, or another task with --task",
        )
    own = card is not None and card.task == wanted.name
    labels = (card.labels if card else ()) or _labels(folder.config)
    prompt_format = card.style if card and own else None
    check_instruction(instruction, wanted, family, folder.path, prompt_format=prompt_format)
    return ModelHandle(
        reference=reference,
        folder=folder,
        task=wanted,
        family=family,
        prompt_format=prompt_format,
        labels=labels if wanted.labelled else (),
        stored_instruction=card.instruction if card and own else None,
        instruction=instruction,
    )


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
