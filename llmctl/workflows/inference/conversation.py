"""A conversation that fits the model's context."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from llmctl.data.read import content_id
from llmctl.errors import PromptTooLong
from llmctl.types import Record, Request
from llmctl.workflows.inference.requests import RequestBuilder

Message = dict[str, Any]


def fitted(
    request_builder: RequestBuilder, messages: Sequence[Message], longest_answer: int, *, where: str = "the message"
) -> tuple[Request, int]:
    """The conversation as the model is asked it, and how many of its oldest turns had to go for that.

    System messages and the last turn always stay. As long as turns can go, half of the context, or as much as the
    longest answer takes, is kept free for the answer. Raises `PromptTooLong` where what has to stay does not fit.
    """
    context = request_builder.layout.context
    turns = _turns(messages)

    def record(dropped: int) -> Record:
        gone = {place for turn in turns[:dropped] for place in turn}
        kept = [message_of(each["role"], each["content"]) for place, each in enumerate(messages) if place not in gone]
        return Record(content_id({"messages": kept}), {"messages": kept}, where)

    dropped = 0
    if context is not None:
        # An encoder-decoder answers outside of what it reads.
        free = min(longest_answer, context // 2) if request_builder.layout.family == "decoder" else 0
        places = range(max(0, len(turns) - 1))
        dropped = bisect.bisect_left(
            places, True, key=lambda number: request_builder.length(record(number)) + free <= context
        )
    found = record(dropped)
    check_fits(request_builder, found)
    return request_builder.generation_request(found), dropped


def check_fits(request_builder: RequestBuilder, record: Record) -> None:
    """A person is told that a message is too long: nothing of it is cut off unseen."""
    context, length = request_builder.layout.context, request_builder.length(record)
    if context is not None and length > context - (request_builder.layout.family == "decoder"):
        raise PromptTooLong(length, context, where=record.origin)


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """The places of the messages of each turn: what the user says and all up to what he says next."""
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
