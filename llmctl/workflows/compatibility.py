"""Whether a model reads an instruction of the user's, found out before its tokenizer is opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from llmctl import registry
from llmctl.data.spec import INSTRUCTION_FORMATS
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.metrics.spec import MetricSpec
from llmctl.models.spec import ModelSpec
from llmctl.store.tokenizers import uses_instruction
from llmctl.tasks.spec import Task
from llmctl.types import Family


def resolve_instruction(task: Task, labels: Sequence[str], requested: str | None, trained_with: str | None) -> str:
    """What a model is told: what the user asks for, else what it learned to be told for this task, else the task's own."""
    return trained_with if requested is None and trained_with is not None else task.instruct(labels, requested)


def check_instruction(
    instruction: str | None, task: Task, family: str, tokenizer: Path, *, prompt_format: str | None = None
) -> None:
    """Raise `ConfigError` for an instruction that nothing would read. `prompt_format`: the model's, where it is known."""
    if instruction is None:
        return
    if not task.takes_instruction:
        why = f"{task.name} has none: a text is put to the model as it stands"
    elif family != "decoder":
        why = f"is read by decoders, this model is of the family {family}"
    elif not (prompt_format in INSTRUCTION_FORMATS if prompt_format else uses_instruction(tokenizer)):
        why = "is not read by a model that tells its tasks by control tokens of its own"
    else:
        return
    raise ConfigError([Fault("instruction", why, "leave it out")])


def models_that_can(families: Collection[str], *, packed: bool = False) -> str:
    """A hint that names the architectures of these families; `packed`: those among them that say a text."""
    specs: list[ModelSpec] = [registry.load("models", entry.name) for entry in registry.entries("models")]
    able = [spec.name for spec in specs if spec.family in families and not (packed and spec.labels_only)]
    return f"models that can: {', '.join(able)}"


def check_able(model: str, task: Task, family: Family, kind: str) -> None:
    """Raise `UsageError` where a model cannot learn the task, naming those that can. `kind`: its architecture, as the
    registry or its config.json names it."""
    if family not in task.families:
        why = f"is of the family {family}, {task.name} needs {' or '.join(task.families)}"
    elif task.packed and _only_names_labels(kind.removeprefix("llmctl-")):
        why = f"only names labels, {task.name} has none"
    else:
        return
    raise UsageError(f"{model} {why}", hint=models_that_can(task.families, packed=task.packed))


def _only_names_labels(name: str) -> bool:
    """Whether an architecture of the registry has a head for labels and no other."""
    return any(entry.name == name and registry.load("models", name).labels_only for entry in registry.entries("models"))


def unreadable(spec: MetricSpec, task: Task) -> str | None:
    """Why a metric finds nothing to read in what a model makes of the task; None where it does."""
    if task.packed and spec.output_type == "text":
        return f"{spec.name} compares answers, {task.name} has none"
    if task.labelled and spec.output_type == "likelihood":
        return f"{spec.name} is of a text, {task.name} answers with labels"
    return None


def unforetold(spec: MetricSpec, task: Task, family: Family) -> str | None:
    """Why what a model learns by mending a text is not the likelihood that a metric reads: of the places that it fills in
    each is foretold by itself, and what an encoder-decoder says is not all of the text."""
    if spec.output_type != "likelihood" or not task.packed or family == "decoder":
        return None
    if family == "encoder":
        return f"an encoder fills in hidden places, which is no likelihood of a text for {spec.name}"
    if spec.counts_bytes:
        return f"an encoder-decoder mends a text, it does not say all of it for {spec.name}"
    return None
