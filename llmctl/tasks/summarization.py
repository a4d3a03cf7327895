"""Summarization: a document and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.tasks.spec import Column, Task
from llmctl.types import Record, Segment


class Summarization(Task):
    """`{document, summary}`: the document is the source, the summary the target."""

    name = "summarization"
    columns = (Column("document"), Column("summary"))
    families = ("encoder-decoder", "decoder")
    metrics = ("rouge",)
    instruction = "Summarize the text in one sentence."

    def segments(self, record: Record) -> list[Segment]:
        return [Segment("source", record.fields["document"]), Segment("target", record.fields["summary"], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"document": prompt}
