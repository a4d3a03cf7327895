"""Translation: a source text and its translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.tasks.spec import Column, Task
from llmctl.types import Record, Segment


class Translation(Task):
    """`{source, target}`: the model is trained to produce the target from the source."""

    name = "translation"
    columns = (Column("source"), Column("target"))
    families = ("encoder-decoder", "decoder")
    metrics = ("bleu", "chrf")
    instruction = "Translate the text."

    def segments(self, record: Record) -> list[Segment]:
        return [Segment("source", record.fields["source"]), Segment("target", record.fields["target"], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"source": prompt}
