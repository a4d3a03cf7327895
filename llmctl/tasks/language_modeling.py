"""Language modelling: every token of a text is in the loss; a prompt is continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.tasks.spec import Column, Task
from llmctl.types import Record, Segment


class LanguageModeling(Task):
    """`{text}`: a decoder predicts each token from those before it; other families are pre-trained by denoising."""

    name = "language-modeling"
    columns = (Column("text"),)
    families = ("decoder", "encoder-decoder", "encoder")
    pretrain_only = ("encoder-decoder", "encoder")
    metrics = ("perplexity", "bits_per_byte")
    packed = True
    answer_role = "text"

    def segments(self, record: Record) -> list[Segment]:
        return [Segment("text", record.fields["text"], in_loss=True)]

    def prompt(self, record: Record) -> list[Segment]:
        return [Segment("text", record.fields["text"])]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"text": prompt}

    def read(self, answer: str) -> str:
        return answer
