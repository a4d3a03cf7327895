"""Answers as server-sent events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

from starlette.responses import StreamingResponse

from llmctl.workflows.serve.guard import HEADERS, encoded
from llmctl.workflows.serve.refusals import Refusal
from llmctl.workflows.serve.service import Usage

DONE: Final = b"data: [DONE]\n\n"


async def events(
    stream: AsyncGenerator[dict[str, Any] | Usage], head: dict[str, Any], *, include_usage: bool
) -> AsyncGenerator[bytes]:
    """Server-sent events. An error after the first of them is an event too, and the last one."""
    usage = {"usage": None} if include_usage else {}
    started = False
    async with contextlib.aclosing(stream):
        try:
            async for each in stream:
                started = True
                if not isinstance(each, Usage):
                    yield _event({**head, "choices": [each], **usage})
                elif include_usage:
                    yield _event({**head, "choices": [], "usage": each.document()})
        except Refusal as refusal:
            if not started:
                raise
            yield _event(refusal.document())
            return
    yield DONE


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + encoded(document) + b"\n\n"


async def chained(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(rest):
        yield first
        async for each in rest:
            yield each


class EventStream(StreamingResponse):
    """Server-sent events, as they come. When the client goes away, the iteration ends and its rows are freed."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers=HEADERS | {"x-accel-buffering": "no"})
        self._chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with contextlib.aclosing(self._chunks):
            await super().__call__(scope, receive, send)
