"""The body of a request that a conversation is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from llmctl.workflows.serve.bodies import MOST_TOP, Body, FieldFault, Streamed

MOST_MESSAGES: Final = 4096
MOST_TOOLS: Final = 128


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[dict[str, Any]] = []
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Parts of text as one text; fields of an answer that is sent back, as far as they hold nothing."""
        if not isinstance(value, Mapping):
            return value
        found = {name: each for name, each in value.items() if each not in (None, [])}
        if found.get("role") == "function" or "function_call" in found:
            raise FieldFault("role" if "content" in found else "function_call", "is of an older interface: use tools")
        if "tool_calls" in found and found.get("role") != "assistant":
            raise FieldFault("tool_calls", "is for messages of the assistant")
        if "tool_call_id" in found and found.get("role") != "tool":
            raise FieldFault("tool_call_id", "is for messages of a tool")
        if "content" not in found and "tool_calls" not in found and value.get("content") is None:
            raise FieldFault("content", "is required")
        parts = value.get("content")
        if not isinstance(parts, list):
            return found
        for number, part in enumerate(parts):
            if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                raise FieldFault(f"content[{number}]", "is no text part: this server reads text only")
            if extra := sorted(set(part) - {"type", "text"}):
                raise FieldFault(f"content[{number}].{extra[0]}", "is not supported")
        return {**found, "content": "".join(part["text"] for part in parts)}

    @model_validator(mode="after")
    def _check_calls(self) -> Self:
        for call in self.tool_calls:
            function = call.get("function")
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise FieldFault("tool_calls", "must name functions: {id, type, function: {name, arguments}}")
        return self

    def record(self) -> dict[str, Any]:
        found = {"role": "system" if self.role == "developer" else self.role, "content": self.content}
        return found | self.model_dump(include={"tool_calls", "tool_call_id"}, exclude_defaults=True)


class ChatBody(Streamed):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    tools: list[dict[str, Any]] = Field(default=[], max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto"] = "auto"
    parallel_tool_calls: bool = True
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldFault("top_logprobs", "needs logprobs: set it to true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise FieldFault("max_tokens", "differs from max_completion_tokens: give one of them")
        if self.messages[-1].role == "assistant":
            raise FieldFault("messages", "ends with an answer: the last message must be one to answer")
        for tool in self.tools:
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, Mapping) or not function.get("name"):
                raise FieldFault(
                    "tools", "must be functions: {type: function, function: {name, description, parameters}}"
                )
        if self.tools and not self.parallel_tool_calls:
            raise FieldFault("parallel_tool_calls", "cannot be false: a model is not kept from several calls")
        return self

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model may call."""
        return self.tools if self.tool_choice == "auto" else []

    def of_tools(self) -> str | None:
        """The first field that only a model with tools can follow."""
        if self.offered:
            return "tools"
        for number, message in enumerate(self.messages):
            if message.role == "tool" or message.tool_calls:
                return f"messages[{number}].{'role' if message.role == 'tool' else 'tool_calls'}"
        return None

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None
