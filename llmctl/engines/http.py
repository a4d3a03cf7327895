"""Requests to a server with the OpenAI API: the key, retries, and errors as ours."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final

import httpx2

from llmctl.errors import DataError, EnvironmentFault, LlmctlError, UsageError

ATTEMPTS: Final = 6
"""Tries of a request that may succeed later."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Seconds; each pause is twice the one before it, or what the server says in Retry-After."""
CONNECT_SECONDS, READ_SECONDS = 10.0, 600.0
LATER: Final = frozenset([408, 409, 425, 429, 500, 502, 503, 504])
"""Statuses after which a request may succeed later."""
LONGEST: Final = 300
"""Characters of a server's message that are shown."""


class ApiServer:
    """The server at a URL such as `http://localhost:8000/v1`. May be used from several threads."""

    def __init__(self, url: str, key: str | None, connections: int) -> None:
        self.url = url
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=connections + 1),
        )
        weakref.finalize(self, self._client.close)

    def model(self, name: str) -> dict[str, Any]:
        """The server's entry of a model; empty if the server has no list. Raises `UsageError` if it is not in the list,
        `EnvironmentFault` if the server cannot be reached or refuses the key."""
        try:
            listed = self._send("GET", "models", None).get("data")
        except UsageError:
            return {}
        entries = {str(each.get("id")): each for each in listed or () if isinstance(each, dict)}
        if entries and name not in entries:
            raise UsageError(
                f"the server has no model {name!r}; it has {', '.join(sorted(entries)[:5])}", where=self.url
            )
        return dict(entries.get(name) or {})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises `DataError` for a request that the server refuses, `EnvironmentFault` if it does
        not answer after all attempts."""
        try:
            return self._send("POST", path, body)
        except UsageError as error:
            raise DataError(error.message, where=error.where) from error

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = self._tried(lambda: self._client.request(method, f"{self.url}/{path}", json=body))
        try:
            found: dict[str, Any] = response.json()
        except ValueError as error:
            raise EnvironmentFault("the server's answer is not JSON", where=f"{self.url}/{path}") from error
        return found

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer. Only its beginning is tried again."""
        url = f"{self.url}/{path}"
        response = self._tried(
            lambda: self._client.send(self._client.build_request("POST", url, json=body), stream=True)
        )
        try:
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise EnvironmentFault(f"the server stopped: {_shown(chunk['error'])}", where=url)
                yield chunk
        except httpx2.HTTPError as error:
            raise EnvironmentFault(f"the connection broke: {error!r}", where=url) from error
        finally:
            response.close()

    def _tried(self, send: Any) -> Any:
        """A response with a good status. Pauses between attempts."""
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            wait, problem = pause, ""
            try:
                response = send()
                if response.status_code < 400:
                    return response
                response.read()
                problem = f"status {response.status_code}: {_message(response)}"
                if response.status_code not in LATER:
                    raise _refused(response.status_code, problem, self.url)
                wait = _retry_after(response) or pause
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if attempt < ATTEMPTS:
                time.sleep(min(wait, LONGEST_PAUSE))
                pause *= 2
        raise EnvironmentFault(
            f"the server does not answer ({ATTEMPTS} attempts): {problem}",
            where=self.url,
            hint="is it running? check the URL, which ends in /v1",
        )


def _refused(status: int, problem: str, url: str) -> LlmctlError:
    if status in (401, 403):
        return EnvironmentFault(f"the server refuses the key: {problem}", where=url, hint="set OPENAI_API_KEY")
    return UsageError(f"the server refuses the request: {problem}", where=url)


def _retry_after(response: Any) -> float | None:
    """The seconds of the header Retry-After; None without one, or for a date."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _message(response: Any) -> str:
    try:
        return _shown(response.json().get("error"))
    except (ValueError, AttributeError):
        return _shown(response.text)


def _shown(error: Any) -> str:
    """A server's message in one line."""
    text = " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
