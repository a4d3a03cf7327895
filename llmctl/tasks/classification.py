"""Classification: a text and its one correct label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmctl.tasks import layouts
from llmctl.tasks.spec import Column, Task
from llmctl.types import Adapting, Record, Segment


class Classification(Task):
    """`{text, label}`: labels are strings; the training split defines the closed set of labels."""

    name = "classification"
    columns = (Column("text"), Column("label"))
    families = ("encoder", "decoder", "encoder-decoder")
    metrics = ("accuracy", "macro_f1")
    labelled = True
    answer_role = "label"
    instruction = "Name the label that fits the text."

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        """Whole numbers and truth values are labels too."""
        fields = layouts.label(record.fields, "label", adapting)
        return record if fields is record.fields else replace(record, fields=fields)

    def segments(self, record: Record) -> list[Segment]:
        return [Segment("source", record.fields["text"]), Segment("label", record.fields["label"], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"text": prompt}
