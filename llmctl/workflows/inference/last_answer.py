"""The last answer of a conversation with tools, as a model writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmctl.data.examples.layout import Layout
from llmctl.types import Segment


def last_answer(layout: Layout, segments: Sequence[Segment]) -> str:
    """What the chat template renders of the calls at the end and of the text before them, without special tokens.

    Raises `DataError` for a conversation that the template does not render.
    """
    size = 2 if len(segments) > 1 and segments[-2].role == "assistant" else 1
    earlier = [replace(each, in_loss=False) for each in segments[:-size]]
    answer = layout.tokens([*earlier, *segments[-size:]])
    ids = [token for part in answer if part.in_loss for token in part.ids]
    text: str = layout.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()
