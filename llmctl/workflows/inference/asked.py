"""What a row of prompts asks: a record of the task, or a text in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.tasks.spec import Task
from llmctl.types import TOOL_ROLES, Adapting, Record

OWN: Final = ("prompt", "finish_reason")
"""Fields that together show that `generate` wrote a row."""
_TOOL_TURNS: Final = (*TOOL_ROLES, "function")


def asked(row: Record, task: Task) -> Record:
    """The record that a row asks. `prompt` is text for the task's question, where the row lacks the task's own fields or
    `generate` wrote it: what it calls `text` is an answer."""
    fields = row.fields
    if isinstance(fields.get("messages"), list):
        if uses_tools(fields):
            return task.adapt(row, Adapting())
        row = replace(row, fields={**fields, "messages": [_message(each) for each in fields["messages"]]})
        fields = row.fields
    columns = task.prompt_columns()
    if "prompt" not in fields or any(column.name == "prompt" for column in columns):
        return row
    if all(column.name in fields for column in columns if column.required) and not all(name in fields for name in OWN):
        return row
    if not isinstance(fields["prompt"], str):
        raise DataError(f"the prompt is {type(fields['prompt']).__name__}, expected text", where=f"{row.origin}:prompt")
    record = replace(row, fields=task.record_of(fields["prompt"]))
    offered = {name: fields[name] for name in ("tools", "functions") if fields.get(name)}
    if offered and task.answer_role == "assistant":
        return task.adapt(replace(record, fields={**record.fields, **offered}), Adapting())
    return record


def uses_tools(fields: Mapping[str, Any]) -> bool:
    """Whether a conversation offers tools, calls them or has their answers."""
    return any(fields.get(name) for name in ("tools", "functions")) or any(
        each.get("role") in _TOOL_TURNS or each.get("tool_calls") or each.get("function_call")
        for each in fields["messages"]
        if isinstance(each, Mapping)
    )


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
