"""What a row of prompts asks: a record of the task, or a text in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.tasks.spec import Task
from llmctl.types import Record

OWN: Final = ("prompt", "finish_reason")
"""Fields that together show that `generate` wrote a row."""


def asked(row: Record, task: Task) -> Record:
    """The record that a row asks. `prompt` is text for the task's question, where the row lacks the task's own fields or
    `generate` wrote it: what it calls `text` is an answer."""
    fields = row.fields
    if isinstance(fields.get("messages"), list):
        if offered := next((name for name in ("tools", "functions") if fields.get(name)), None):
            raise DataError(
                "the conversation offers tools, which the prompt formats do not express",
                where=f"{row.origin}:{offered}",
                hint=f"leave the field {offered} out",
            )
        row = replace(row, fields={**fields, "messages": [_message(each) for each in fields["messages"]]})
        fields = row.fields
    columns = task.prompt_columns()
    if "prompt" not in fields or any(column.name == "prompt" for column in columns):
        return row
    if all(column.name in fields for column in columns if column.required) and not all(name in fields for name in OWN):
        return row
    if not isinstance(fields["prompt"], str):
        raise DataError(f"the prompt is {type(fields['prompt']).__name__}, expected text", where=f"{row.origin}:prompt")
    return replace(row, fields=task.record_of(fields["prompt"]))


def _message(message: Any) -> Any:
    """A message as chat models know it: OpenAI's role `developer` is `system`, text parts are one text."""
    if not isinstance(message, Mapping):
        return message
    changed = dict(message)
    if changed.get("role") == "developer":
        changed["role"] = "system"
    parts = changed.get("content")
    if isinstance(parts, list) and all(
        isinstance(each, Mapping) and isinstance(each.get("text"), str) for each in parts
    ):
        changed["content"] = "".join(each["text"] for each in parts)
    return changed
