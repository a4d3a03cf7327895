"""Chat: a conversation in turns; the assistant's turns are in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmctl.errors import DataError, MissingField
from llmctl.tasks import layouts
from llmctl.tasks.dialogues import SYSTEMS
from llmctl.tasks.layouts import ANSWERS, ROLES
from llmctl.tasks.spec import Column, Task
from llmctl.types import TOOL_ROLES, Adapting, Record, Segment


class Chat(Task):
    """`{messages: [{role, content, weight?}]}`: each assistant turn is a target, conditioned on all turns before it,
    unless its weight is 0. Its calls of tools are targets too: see `tool_turns.py`."""

    name = "chat"
    columns = (Column("messages", list),)
    families = ("decoder",)
    metrics = ("perplexity",)
    answer_role = "assistant"
    also = (*SYSTEMS, "tools", "functions", "prompt", "completion")

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        """Reads ShareGPT, Alpaca, columns of a question and its answer and OpenAI's content parts too."""
        where = f"{record.origin}:" if record.origin else ""
        return replace(record, fields=layouts.conversation(record.fields, adapting, where))

    def segments(self, record: Record) -> list[Segment]:
        return turns(record, "messages")

    def prompt(self, record: Record) -> list[Segment]:
        """The conversation without the assistant turns at its end, which the model is to generate."""
        found = self.segments(record)
        while found and found[-1].role in ANSWERS:
            found.pop()
        return [Segment(turn.role, turn.text) for turn in found]

    def references(self, record: Record) -> tuple[str, ...]:
        last = self.segments(record)[-1]
        return (last.text,) if last.role == "assistant" else ()

    def check(self, record: Record, columns: Sequence[Column] | None = None) -> None:
        try:
            super().check(record, columns)
        except MissingField as error:
            error.columns += ", or of a question and its answer: --columns prompt=YOUR_COLUMN,completion=YOUR_COLUMN"
            raise
        if columns is None and not any(turn.role in ANSWERS for turn in self.segments(record)):
            raise DataError("no assistant turn: nothing to train on", where=f"{record.origin}:messages")

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}]}


def turns(record: Record, field: str) -> list[Segment]:
    """The messages in a field as segments; those of the assistant are in the loss, unless their weight is 0.

    Raises `DataError` for an unknown role, content that is no text, or no messages.
    """
    found: list[Segment] = []
    for number, message in enumerate(record.fields[field]):
        known = isinstance(message, (dict, Mapping))  # most are dictionaries, which are recognised faster
        role = message.get("role") if known else None
        content = message.get("content") if known else None
        if (role not in ROLES and role not in TOOL_ROLES) or not isinstance(content, str):
            where = f"{record.origin}:{field}[{number}]"
            if role not in ROLES and role not in TOOL_ROLES:
                raise DataError(f"the role is {role!r}, expected one of {', '.join(ROLES)}, tool", where=where)
            raise DataError(f"the content is {type(content).__name__}, expected str", where=where)
        found.append(Segment(role, content, in_loss=role in ANSWERS and message.get("weight") != 0))
    if not found:
        raise DataError("the conversation has no messages", where=f"{record.origin}:{field}")
    return found
