"""Find a model and its prompt format before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from llmctl import registry
from llmctl.compatibility import check_card, check_instruction, resolve_instruction
from llmctl.errors import UsageError
from llmctl.models import families
from llmctl.models.resolve import open_weights
from llmctl.settings import server_of
from llmctl.store.model_config import GENERATION
from llmctl.store.models import ModelFolder
from llmctl.store.safety import read_json
from llmctl.tasks.spec import Task
from llmctl.types import MODALITY, EventSink, Family, null_sink

PADDING_SHARE: Final = 0.05
PADDING_LEAST: Final = 128
"""Models pad their vocabulary beyond the tokenizer's last entry, by at most the larger of these: share and entries."""
OWN_TOKENIZER: Final = "copy the model's own tokenizer files into its folder"


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """A model and how to prompt it.

    `prompt_format` and `stored_instruction` come from its card if it was trained for this task; None: the tokenizer and
    the task decide.
    """

    reference: str
    folder: ModelFolder
    task: Task
    family: Family
    prompt_format: str | None
    labels: tuple[str, ...]
    stored_instruction: str | None = None
    """The instruction it was trained with, labels included."""
    instruction: str | None = None
    """The user's instruction, which replaces it."""
    server: tuple[str, str] | None = None
    """Name and URL of a model behind a server; `folder` is then empty."""

    def instruct(self) -> str:
        """The instruction for its prompts."""
        return resolve_instruction(self.task, self.labels, self.instruction, self.stored_instruction)

    def languages(self) -> tuple[str | None, bool]:
        """The code of the language that a Whisper model writes, None where its folder does not say; and whether it knows
        several. Of several it writes the one that its generation_config.json names, else English."""
        path = self.folder.architecture / GENERATION
        settings = read_json(path) if path.is_file() else {}
        several = settings.get("is_multilingual")
        if not isinstance(several, bool):
            return None, False
        return (str(settings.get("language") or "en").strip("<|>"), True) if several else ("en", False)

    def choosing(self, labels: Sequence[str] = (), *, calibrate: bool = False) -> ModelHandle:
        """The same model, choosing from these labels; default: its own.

        Raises `UsageError` where there are no labels, where its classification head has others, and for a task without
        labels.
        """
        if self.server is not None and self.task.labelled:
            return replace(self, labels=tuple(labels))  # its answer is compared with them as it is
        if not self.task.labelled:
            if labels or calibrate:
                raise UsageError(f"{self.task.name} has no labels to choose from")
            return self
        if not labels and not self.labels:
            raise UsageError(f"{self.reference} has no labels of its own", hint="name them: --set 'labels=[bad, good]'")
        if self.family == "encoder":
            if calibrate:
                raise UsageError(f"{self.reference} has a classification head: there is nothing to calibrate")
            if labels and sorted(labels) != sorted(self.labels):
                known = ", ".join(self.labels[:5]) or "none"
                raise UsageError(
                    f"{self.reference} has a classification head for other labels ({known}) than {', '.join(labels[:5])}",
                    hint="train it on data with these labels",
                )
            return self
        return replace(self, labels=tuple(labels) or self.labels)

    def check_vocabulary(self, tokenizer_size: int, largest_id: int) -> None:
        """Raise `UsageError` with both sizes where the tokenizer does not match the weights."""
        size = self.folder.config.get("vocab_size")
        if not isinstance(size, int):
            return
        spare = size - tokenizer_size
        if spare < 0 or spare > max(PADDING_LEAST, PADDING_SHARE * size):
            raise UsageError(
                f"the tokenizer has {tokenizer_size:,} entries, the model {size:,}: they do not match",
                where=str(self.folder.path),
                hint=OWN_TOKENIZER,
            )
        if largest_id >= size:
            raise UsageError(
                f"the tokenizer has the id {largest_id:,}, the model the ids 0 to {size - 1:,}: they do not match",
                where=str(self.folder.path),
                hint=OWN_TOKENIZER,
            )


def find_model(
    reference: str,
    *,
    task: str | None = None,
    otherwise: str | None = None,
    instruction: str | None = None,
    base: Path | None = None,
    offline: bool = False,
    verify: bool = False,
    emit: EventSink = null_sink,
) -> ModelHandle:
    """Find a pretrained model (see `models.resolve.open_weights`) and how to prompt it.

    `task` overrides the task of the model's card. Without a card the task is `otherwise`; without that, speech recognition
    for a model that hears, chat if the tokenizer has a chat template, else language modelling. Raises `UsageError` where there is no model or it cannot do
    the task, `ConfigError` for an `instruction` that it would not see, and what `open_weights` raises.
    """
    if (server := server_of(reference)) is not None:
        return _served(reference, server, task or otherwise, instruction)
    folder = open_weights(reference, base=base, offline=offline, verify=verify, emit=emit)
    check_card(folder)
    if not folder.has_tokenizer:
        raise UsageError(
            f"{folder.path} has no tokenizer", hint="copy tokenizer.json and tokenizer_config.json into it"
        )
    card = folder.card
    family = _family(folder)
    usual = "chat" if folder.has_chat_template else "language-modeling"
    usual = "speech-recognition" if MODALITY[family] == "audio" else usual
    name = task or (card.task if card else otherwise) or usual
    wanted: Task = registry.load("tasks", name)()
    if wanted.pairs:
        raise UsageError(
            f"{wanted.name} is for training and eval: its models answer another task", hint="name that task"
        )
    if family not in wanted.promptable:
        able = " or ".join(wanted.promptable)
        raise UsageError(
            f"the task {wanted.name} needs a model of the family {able}; {reference} is of the family {family}"
            + (": it can be fine-tuned, but not prompted" if family in wanted.families else ""),
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


def _served(reference: str, server: tuple[str, str], task: str | None, instruction: str | None) -> ModelHandle:
    """A model behind a server: a chat model, unless a task is named. Raises `ConfigError` for an instruction of a task that
    has none."""
    wanted: Task = registry.load("tasks", task or "chat")()
    check_instruction(instruction, wanted, "decoder", Path(reference), prompt_format="plain")
    return ModelHandle(
        reference=reference,
        folder=ModelFolder(Path(reference), {}, None, has_tokenizer=False, has_chat_template=True),
        task=wanted,
        family="decoder",
        prompt_format=None,
        labels=(),
        instruction=instruction,
        server=server,
    )


def _family(folder: ModelFolder) -> Family:
    return families.family_of(folder.config) if folder.card is None else cast(Family, folder.card.family)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """The labels of transformers' `id2label`, in the order of their ids."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(number).isdecimal() for number in named):
        return ()
    return tuple(str(label) for _, label in sorted(named.items(), key=lambda item: int(item[0])))
