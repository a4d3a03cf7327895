"""Whether the objective fits data and model, by the settings alone."""

from __future__ import annotations

from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.tasks.spec import Task
from llmctl.training.spec import Dpo
from llmctl.types import Family
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
