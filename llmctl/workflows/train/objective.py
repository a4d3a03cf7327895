"""Whether the objective (likelihood, denoising, preference) fits data and model, by the settings alone."""

from __future__ import annotations

from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.models import families
from llmctl.models.spec import ModelSpec
from llmctl.store.models import ModelFolder
from llmctl.tasks.spec import Task
from llmctl.training.spec import Dpo
from llmctl.types import Denoising, Family
from llmctl.workflows.train.spec import TrainConfig


def check(config: TrainConfig, task: Task, answers: Task, family: Family, *, random: bool) -> None:
    """Raise `ConfigError` or `UsageError` for an objective that the data or the model do not allow.

    `answers`: the task that the model answers; `random`: it starts from random weights.
    """
    faults: list[Fault] = []
    if config.objective == "dpo" and not task.pairs:
        hint = "preprocess pairs: --task preference"
        faults.append(Fault("objective", f"dpo compares two answers, {config.data} was prepared for {task.name}", hint))
    if config.objective == "likelihood" and task.pairs:
        faults.append(Fault("objective", f"{config.data} holds preference pairs", "--objective dpo"))
    if not task.pairs and config.dpo != Dpo():
        faults.append(Fault("dpo", "has no effect without --objective dpo", "leave it out"))
    if config.dpo.label_smoothing and config.dpo.loss != "sigmoid":
        faults.append(Fault("dpo.label_smoothing", f"has no effect on the loss {config.dpo.loss}", "leave it out"))
    if task.pairs and config.long_answers != "drop":
        faults.append(
            Fault("long_answers", "has no effect on pairs, which are left out if they do not fit", "leave it out")
        )
    if faults:
        raise ConfigError(faults)
    if task.pairs and random:
        raise UsageError(
            f"{config.model.name} has random weights; preference tuning starts from a model that answers",
            hint="train it on answers first, then --model RUN",
        )
    if task.pairs and family not in answers.families:
        raise UsageError(
            f"{config.model.name} is of the family {family} and was not trained to answer a task",
            hint="train it on a task such as translation or summarization first",
        )


def denoising(
    config: TrainConfig,
    task: Task,
    family: Family,
    architecture: ModelSpec | None,
    pretrained_folder: ModelFolder | None,
) -> Denoising | None:
    """The denoising objective; a model fine-tuned further keeps the noise density it was trained with.

    Raises `ConfigError` for a `noise_density` that would have no effect.
    """
    own = pretrained_folder.config if pretrained_folder else {}
    kind = architecture.name if architecture else str(own.get("model_type", ""))
    card = pretrained_folder.card if pretrained_folder else None
    trained_with = card.noise_density if card and card.task == task.name else None
    noise_density = config.noise_density or trained_with
    found = families.denoising_of(family, kind, noise_density) if task.packed else None
    if found is None and config.noise_density is not None:
        problem = "has no effect" + (
            " on a decoder, which predicts the next token" if task.packed else f" on {task.name}"
        )
        hint = "leave it out; all families but decoders denoise the text of language-modeling"
        raise ConfigError([Fault("noise_density", problem, hint)])
    return found
