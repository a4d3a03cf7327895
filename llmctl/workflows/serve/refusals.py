"""What a client gets when a request is not answered: OpenAI's error object, without a path of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.data.tokenizing.chat_template import TemplateFault
from llmctl.errors import DataError, DiskFull, LlmctlError, PromptTooLong, UsageError
from llmctl.types import Event

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is not answered, with its HTTP status. `param`: the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal_of(error: LlmctlError, *, param: str | None = None, bad_record: int = 400) -> Refusal:
    """The refusal for an error of ours. `param`: the field that holds the prompt; `bad_record`: the status of a record
    that lacks a field or has one of the wrong type.

    Only faults of the request are described. Any other message could name a file, so it is for the log.
    """
    if isinstance(error, PromptTooLong):
        return Refusal(400, error.message, param=param, code="context_length_exceeded")
    if isinstance(error, DataError):
        where = (error.where or "").replace(":", ".").strip(".")
        return Refusal(bad_record, error.message, param=where or param)
    if isinstance(error, UsageError | TemplateFault):
        return Refusal(400, error.message, param=param)
    return failed(error)


def failed(error: LlmctlError | None = None) -> Refusal:
    if isinstance(error, DiskFull):
        return Refusal(503, "the server's disk is full; the server's log names the place", code="disk_full")
    return Refusal(500, "the model failed on this request; the server's log has the reason", code="model_failed")


def event(error: LlmctlError) -> Event:
    """The line of the log for an error that a client is not shown."""
    return Event("warning", {"text": f"a request failed: {error}"})


def busy() -> Refusal:
    return Refusal(
        429, "too many requests are waiting; try again later", code="queue_full", headers={"Retry-After": "1"}
    )


def draining() -> Refusal:
    return Refusal(503, "the server is shutting down", code="draining", headers={"Retry-After": "5"})


def too_slow(seconds: float) -> Refusal:
    return Refusal(504, f"the request took more than {seconds:g} s", code="timeout")
