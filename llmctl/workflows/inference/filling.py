"""The part of a long prompt that fills the context, found before all of it is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import replace
from typing import Final

from llmctl.types import Segment

CHARACTERS_PER_TOKEN: Final = (8, 16, 32, 64, 100)
"""A text of more than so many characters for each token of the context is encoded in part first: whether that part fills
the context already. The last is more than any text has on average: a longer one cannot fit."""

ENCODED_WHOLE: Final = 20_000
"""Characters of a text that is encoded whole for any context, within milliseconds: its length in tokens can be reported."""

BORDER: Final = 64
"""Tokens at the cut of a part that may not be those of the whole text."""


def filling(
    segments: list[Segment], encode: Callable[[str], Sized], context: int, *, keep_end: bool
) -> list[Segment] | None:
    """The part of long texts that fills a context of so many tokens already; None where all of them may fit."""
    whole = sum(len(segment.text) for segment in segments)
    for characters in CHARACTERS_PER_TOKEN:
        if whole <= max(ENCODED_WHOLE, characters * context):
            return None
        part = _part(segments, characters * context, keep_end=keep_end)
        tokens = (len(encode(segment.text)) for segment in part)
        if characters == CHARACTERS_PER_TOKEN[-1] or sum(tokens) > context + BORDER:
            return part
    return None


def _part(segments: list[Segment], room: int, *, keep_end: bool) -> list[Segment]:
    """So many characters of the segments, of the last ones first, and all that a chat template writes."""
    kept = []
    for segment in reversed(segments):  # the question is the last one
        text = segment.text
        if len(text) > room and segment.role != "template":
            text = text[len(text) - room :] if keep_end else text[:room]
        room = max(0, room - len(text))
        kept.append(replace(segment, text=text))
    return kept[::-1]
