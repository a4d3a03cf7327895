"""Classification: a text and its one correct label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.tasks.spec import Column, Task
from llmctl.types import Record, Segment


class Classification(Task):
    """`{text, label}`: labels are strings; the training split defines the closed set of labels."""

    name = "classification"
    columns = (Column("text"), Column("label"))
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = ("accuracy", "macro_f1")
    labelled = True
    answer_role = "label"
    instruction = "Name the label that fits the text."

    def segments(self, record: Record) -> list[Segment]:
        return [Segment("source", record.fields["text"]), Segment("label", record.fields["label"], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"text": prompt}
