"""Fit a conversation into the model's context, and read the answer as it grows."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

from llmctl.data.reading.read import content_id
from llmctl.errors import PromptTooLong
from llmctl.types import Record, Request
from llmctl.workflows.inference.requests import RequestBuilder

Message = dict[str, Any]


def fitted(
    request_builder: RequestBuilder, messages: Sequence[Message], longest_answer: int, *, where: str = "the message"
) -> tuple[Request, int]:
    """The request for a conversation, and how many of its oldest turns were dropped to make it fit.

    System messages and the last turn always stay. Turns are dropped until `longest_answer` tokens, or half of the
    context if that is less, are free for the answer. Raises `PromptTooLong` where the rest still does not fit.
    """
    context = request_builder.layout.context
    turns = _turns(messages)

    def record(dropped: int) -> Record:
        left_out = {place for turn in turns[:dropped] for place in turn}
        kept = [
            message_of(each["role"], each["content"]) for place, each in enumerate(messages) if place not in left_out
        ]
        return Record(content_id({"messages": kept}), {"messages": kept}, where)

    dropped = 0
    if context is not None:
        # The answer of an encoder-decoder does not share the context of its source.
        free = min(longest_answer, context // 2) if request_builder.layout.family == "decoder" else 0
        places = range(max(0, len(turns) - 1))
        dropped = bisect.bisect_left(
            places, True, key=lambda number: request_builder.length(record(number)) + free <= context
        )
    found = record(dropped)
    check_fits(request_builder, found)
    return request_builder.generation_request(found), dropped


def check_fits(request_builder: RequestBuilder, record: Record) -> None:
    """Raise `PromptTooLong` for a message that does not fit: it is never truncated silently."""
    context, length = request_builder.layout.context, request_builder.length(record)
    if context is not None and length > context - (request_builder.layout.family == "decoder"):
        raise PromptTooLong(length, context, where=record.origin)


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """Indices of the messages of each turn: from one message of the user up to the next."""
    turns: list[list[int]] = []
    for place, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(place)
    return turns


def message_of(role: str, content: str, *, interrupted: bool = False) -> Message:
    return {"role": role, "content": content} | ({"interrupted": True} if interrupted else {})


class PartialAnswer:
    """Collects the pieces of an answer, without leading and trailing whitespace."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self.text = ""
        self._show = show
        self._held = ""

    def __call__(self, piece: str) -> None:
        grown = self._held + piece
        if not self.text:
            grown = grown.lstrip()
        new = grown.rstrip()
        self._held = grown[len(new) :]
        if new and self._show is not None:
            self._show(new)
        self.text += new
