"""Whether a model reads an instruction of the user's, found out before its tokenizer is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmctl.data.given import is_told
from llmctl.data.spec import TOLD
from llmctl.errors import ConfigError, Fault
from llmctl.tasks.spec import Task


def told(task: Task, labels: Sequence[str], asked: str | None, learned: str | None) -> str:
    """What a model is told: what the user asks for, else what it learned to be told for this task, else the task's own."""
    return learned if asked is None and learned is not None else task.instruct(labels, asked)


def check_instruction(
    instruction: str | None, task: Task, family: str, tokenizer: Path, *, style: str | None = None
) -> None:
    """Raise `ConfigError` for an instruction that nothing would read. `style`: the model's, where it is known."""
    if instruction is None:
        return
    if not task.instructed:
        why = f"{task.name} has none: a text is put to the model as it stands"
    elif family != "decoder":
        why = f"is read by decoders, this model is of the family {family}"
    elif not (style in TOLD if style else is_told(tokenizer)):
        why = "is not read by a model that tells its tasks by control tokens of its own"
    else:
        return
    raise ConfigError([Fault("instruction", why, "leave it out")])
