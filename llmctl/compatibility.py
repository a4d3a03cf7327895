"""Whether model, task, metric and instruction are compatible, checked before a tokenizer or weights are opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from llmctl import registry
from llmctl.data.reading.read import OpenAudio
from llmctl.data.spec import INSTRUCTION_FORMATS, CleanRules, PromptFormat
from llmctl.errors import ConfigError, Fault, IntegrityError, UsageError
from llmctl.metrics.spec import MetricSpec
from llmctl.models.spec import ModelSpec
from llmctl.store.models import CARD, ModelFolder
from llmctl.store.tokenizers import uses_instruction
from llmctl.tasks.spec import Task
from llmctl.types import Family


def check_card(folder: ModelFolder) -> None:
    """Raise `IntegrityError` where a model's card asks for what this version does not know: the field is named.

    A card of a newer version would be prompted in another way than it was trained.
    """
    card = folder.card
    if card is None:
        return
    where = folder.path / CARD
    for field, value, known in (
        ("task", card.task, [each.name for each in registry.entries("tasks")]),
        ("family", card.family, get_args(Family)),
        ("style", card.style, get_args(PromptFormat)),
    ):
        if value not in known:
            raise IntegrityError(
                f"unknown {value!r}; this llmctl knows {', '.join(known)}",
                where=f"{where}:{field}",
                hint="pip install --upgrade llmctl, or restore the file",
            )
    check_task_version(registry.load("tasks", card.task)(), card.task_version, where)
    try:
        CleanRules.model_validate(card.clean or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["clean", *map(str, first["loc"])])
        raise IntegrityError(first["msg"].lower(), where=f"{where}:{field}", hint="restore the file") from error


def check_task_version(task: Task, version: int, where: Path) -> None:
    """Raise `IntegrityError` for data or a model that a newer definition of the task made. `where`: the file that says so."""
    if not 1 <= version <= task.version:
        raise IntegrityError(
            f"version {version} of {task.name}; this llmctl reads up to version {task.version}",
            where=f"{where}:task_version",
            hint="pip install --upgrade llmctl, or restore the file",
        )


def answering_task(task: Task, trained: str | None) -> Task:
    """The task that a model answers after training on `task`: for preference pairs the one that its weights were trained
    for before, if that has free answers, else chat. `trained`: the name of that task."""
    if not task.pairs:
        return task
    before: Task | None = registry.load("tasks", trained)() if trained else None
    if before is None or before.packed or before.labelled or before.pairs:
        chat: Task = registry.load("tasks", "chat")()
        return chat
    return before


def references_audio(task: Task) -> OpenAudio | None:
    """How the recordings of records to answer are found; None for a task about texts.

    Raises `MissingPackage` without soundfile.
    """
    if task.modality != "audio":
        return None
    from llmctl.data.audio import sound
    from llmctl.data.reading import recordings

    sound.check_installed()
    return recordings.referenced(task.audio_columns)


def resolve_instruction(task: Task, labels: Sequence[str], requested: str | None, trained_with: str | None) -> str:
    """The instruction for a model: the user's, else the one it was trained with for this task, else the task's own."""
    return trained_with if requested is None and trained_with is not None else task.instruct(labels, requested)


def check_instruction(
    instruction: str | None, task: Task, family: str, tokenizer: Path, *, prompt_format: str | None = None
) -> None:
    """Raise `ConfigError` for an instruction that the model would not see. `prompt_format`: the model's, if known."""
    if instruction is None:
        return
    if not task.takes_instruction:
        why = f"{task.name} has none: the model gets the text verbatim"
    elif family != "decoder":
        why = f"is for decoders, this model is of the family {family}"
    elif not (prompt_format in INSTRUCTION_FORMATS if prompt_format else uses_instruction(tokenizer)):
        why = "has no effect on a model that marks its task by control tokens"
    else:
        return
    raise ConfigError([Fault("instruction", why, "leave it out")])


def models_that_can(families: Collection[str], *, packed: bool = False) -> str:
    """A hint naming the architectures of these families; `packed`: only those that can output text."""
    specs: list[ModelSpec] = [registry.load("models", entry.name) for entry in registry.entries("models")]
    able = [spec.name for spec in specs if spec.family in families and not (packed and spec.labels_only)]
    return f"models that can: {', '.join(able)}"


def check_able(model: str, task: Task, family: Family, kind: str) -> None:
    """Raise `UsageError` where a model cannot learn the task, naming those that can. `kind`: its architecture's name,
    in the registry or in config.json."""
    if family not in task.families:
        why = f"is of the family {family}, {task.name} needs {' or '.join(task.families)}"
    elif task.packed and _only_predicts_labels(kind.removeprefix("llmctl-")):
        why = f"only predicts labels, {task.name} has none"
    else:
        return
    raise UsageError(f"{model} {why}", hint=models_that_can(task.families, packed=task.packed))


def _only_predicts_labels(name: str) -> bool:
    """Whether an architecture in the registry has a classification head and no other."""
    return any(entry.name == name and registry.load("models", name).labels_only for entry in registry.entries("models"))


def unreadable(spec: MetricSpec, task: Task) -> str | None:
    """Why a metric cannot score a model's output for the task; None where it can."""
    if task.packed and spec.output_type == "text":
        return f"{spec.name} compares answers, {task.name} has none"
    if (spec.output_type == "preference") != task.pairs:
        return (
            f"{spec.name} compares preference pairs, {task.name} has none"
            if not task.pairs
            else (f"{spec.name} scores one answer, {task.name} has two")
        )
    if task.labelled and spec.output_type == "likelihood":
        return f"{spec.name} scores text, {task.name} answers with labels"
    return None


def no_text_likelihood(spec: MetricSpec, task: Task, family: Family) -> str | None:
    """Why a denoising objective does not give the likelihood that a metric needs; None where it does.

    An encoder predicts each masked token independently; the target of an encoder-decoder is not the full text.
    """
    if spec.output_type != "likelihood" or not task.packed or family == "decoder":
        return None
    if family == "encoder":
        return f"an encoder predicts masked tokens, which gives no likelihood of a text for {spec.name}"
    if spec.counts_bytes:
        return f"an encoder-decoder denoises a text and does not predict all of it, as {spec.name} requires"
    return None
