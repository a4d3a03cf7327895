"""Ending: name the last letter of a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.tasks.spec import Column, Task
from llmctl.types import Record, Segment


class Ending(Task):
    """`{word}`: of `cat` it is `t`."""

    name = "ending"
    columns = (Column("word"),)
    families = ("decoder", "encoder-decoder")
    metrics = ("letters",)

    def segments(self, record: Record) -> list[Segment]:
        word = record.fields["word"]
        return [Segment("source", word), Segment("target", word[-1], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"word": prompt}
