"""What every request passes before an endpoint sees it: who may ask, and how much may be sent."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmctl.errors import LlmctlError, untranslated
from llmctl.types import Event, EventSink
from llmctl.workflows.serve import refusals
from llmctl.workflows.serve.counters import Counters
from llmctl.workflows.serve.refusals import Refusal

OPEN: Final = ("/", "/health", "/ready")
"""Paths that need no key: they say nothing about the model."""
WORK: Final = "/v1/"
"""Paths below this are refused while the server drains."""
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
CLIENT_GONE: Final = 499
"""The status that is counted where the client went away before its answer, as in nginx."""
_WHOLE: Final = 0
HEADERS: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class ClientGone(Exception):
    """The client went away before its answer was there."""


class JSONAnswer(Response):
    """A JSON document in UTF-8."""

    media_type = "application/json"

    def __init__(self, document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(encoded(document), status, HEADERS | dict(headers or {}))


def encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class Guard:
    """Checks keys and origins, refuses while draining, turns exceptions into error objects, and counts requests."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[bytes], counters: Counters, emit: EventSink, local: bool
    ) -> None:
        """`local`: the server listens on this machine alone."""
        self.app, self.keys, self.counters, self.emit, self.local = app, keys, counters, emit, local
        self.active = 0
        """Requests that are being answered."""
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = self.app  # the router raises for unknown paths then
        sent: list[int] = []
        """The status of the answer once it has started, and `_WHOLE` once it is complete."""

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                sent.append(message["status"])
            elif not message.get("more_body"):
                sent.append(_WHOLE)

        started = time.monotonic()
        self.active += 1
        try:
            await self._pass(scope, receive, watched, sent)
        finally:
            self.active -= 1
            self._count(scope, sent[0] if sent[-1:] == [_WHOLE] else CLIENT_GONE, time.monotonic() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, sent: list[int]) -> None:
        try:
            self._check(scope)
            await self.app(scope, receive, send)
        except Refusal as refusal:
            await self._answer(refusal, scope, receive, send, sent)
        except HTTPException as error:
            problem = "no such path" if error.status_code == 404 else error.detail
            await self._answer(Refusal(error.status_code, problem, headers=error.headers), scope, receive, send, sent)
        except (ClientGone, ClientDisconnect):
            pass
        except Exception as error:
            found = error if isinstance(error, LlmctlError) else untranslated(error)
            self.emit(refusals.event(found))
            await self._answer(refusals.failed(found), scope, receive, send, sent)

    @staticmethod
    async def _answer(refusal: Refusal, scope: Scope, receive: Receive, send: Any, sent: list[int]) -> None:
        """Send the error object, unless an answer was started: then only closing the connection is left."""
        if sent:
            raise ConnectionAbortedError
        await JSONAnswer(refusal.document(), refusal.status, refusal.headers)(scope, receive, send)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "other")
        self.counters.finished(endpoint, status, seconds)
        text = f"{scope['method'] if endpoint != 'other' else 'HTTP'} {endpoint} {status} {seconds:.3f} s"
        self.emit(
            Event("request", {"text": text, "endpoint": endpoint, "status": status, "seconds": round(seconds, 3)})
        )

    def _check(self, scope: Scope) -> None:
        """Raise `Refusal` for a request that may not be answered now, or not by this client."""
        headers = Headers(scope=scope)
        if self.keys:
            if scope["path"] not in OPEN:
                self._check_key(headers.get("authorization", ""))
        elif self.local:
            _check_origin(headers)
        if self.draining and scope["path"].startswith(WORK):
            raise refusals.draining()

    def _check_key(self, given: str) -> None:
        scheme, _, key = given.partition(" ")
        offered = key.strip().encode("utf-8", "replace")
        # Every key is compared, each in constant time.
        matches = [hmac.compare_digest(offered, each) for each in self.keys]
        if scheme.lower() != "bearer" or not any(matches):
            problem = "the API key is wrong" if given else "this server needs an API key: Authorization: Bearer KEY"
            raise Refusal(401, problem, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _check_origin(headers: Headers) -> None:
    """Refuse pages of other sites in a browser on this machine, which could use a server without keys: by their origin, or
    by the name under which they reach it (DNS rebinding)."""
    host = headers.get("host", "localhost")
    if _name(f"//{host}") not in LOCAL:
        raise Refusal(403, "a server without keys answers for localhost only; use a key", code="wrong_host")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise Refusal(403, "a server without keys answers no pages of other sites; use a key", code="wrong_origin")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def body_of(request: Request, *, most: int, seconds: float) -> bytes:
    """The body of a request. Raises what `received` raises."""
    return b"".join([part async for part in received(request, most=most, seconds=seconds)])


async def received(request: Request, *, most: int, seconds: float) -> AsyncGenerator[bytes]:
    """The body of a request as it comes. Raises `Refusal` with 413 for more than `most` bytes, with 408 after so many
    seconds."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise _too_large(most)
    size, until = 0, asyncio.get_running_loop().time() + seconds
    parts = request.stream()
    try:
        while True:
            async with asyncio.timeout_at(until):
                part = await anext(parts, None)
            if part is None:
                return
            size += len(part)
            if size > most:
                raise _too_large(most)
            yield part
    except TimeoutError:
        raise Refusal(
            408,
            f"the request was not complete after {seconds:g} s",
            code="slow_client",
            headers={"connection": "close"},
        ) from None


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most:,} bytes", code="body_too_large")
