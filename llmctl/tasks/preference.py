"""Preference pairs: two answers to one conversation, of which the first is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmctl.errors import DataError
from llmctl.tasks import preference_layouts
from llmctl.tasks.chat import turns
from llmctl.tasks.spec import Column, Task
from llmctl.types import Adapting, Record, Segment


class Preference(Task):
    """`{prompt: [{role, content}], chosen, rejected}`: the conversation, the preferred answer and the other one.

    A model trained on it answers the task that it answered before, or `chat`.
    """

    name = "preference"
    columns = (Column("prompt", list), Column("chosen"), Column("rejected"))
    families = ("decoder", "encoder-decoder")
    metrics = ("reward_accuracy", "reward_margin")
    pairs = True
    answer_role = "assistant"
    also = ("system", "messages", "conversations")

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        """Reads prompts as text, conversations that end in the answers, and the layouts of `preference_layouts`."""
        where = f"{record.origin}:" if record.origin else ""
        return replace(record, fields=preference_layouts.pair(record.fields, adapting, where))

    def segments(self, record: Record) -> list[Segment]:
        """The turns of the prompt, the preferred answer (`assistant`) and the other one (`rejected`), both in the loss."""
        prompt = [Segment(turn.role, turn.text) for turn in turns(record, "prompt")]
        chosen, rejected = record.fields["chosen"], record.fields["rejected"]
        return [*prompt, Segment("assistant", chosen, in_loss=True), Segment("rejected", rejected, in_loss=True)]

    def references(self, record: Record) -> tuple[str, ...]:
        """The preferred answer."""
        return (record.fields["chosen"],)

    def check(self, record: Record, columns: Sequence[Column] | None = None) -> None:
        super().check(record, columns)
        if columns is not None:
            return
        *_, last = turns(record, "prompt")
        if last.role == "assistant":
            raise DataError("the prompt ends in a turn of the assistant", where=f"{record.origin}:prompt")
        if record.fields["chosen"] == record.fields["rejected"]:
            raise DataError("the two answers are equal: there is nothing to prefer", where=f"{record.origin}:rejected")

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"prompt": [{"role": "user", "content": prompt}]}
