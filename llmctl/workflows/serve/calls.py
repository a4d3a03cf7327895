"""Calls of tools in the text of an answer, in the form in which the model's chat template writes them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmctl.data.examples.layout import Layout
from llmctl.errors import DataError
from llmctl.types import Segment

_PROBE: Final = {"name": "llmctl_probe", "arguments": {"value": "llmctl"}}

_THOUGHT: Final = "</think>"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How calls are written: JSON, with a text before each or each list of them. Without such a text, an answer is a call
    only as a whole."""

    opening: str = ""
    closing: str = ""

    def split(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """The text of an answer and its calls in OpenAI's form. JSON that is no call stays text."""
        begin = text.find(self.opening, self._after_thought(text))
        if begin < 0:
            return text, []
        rest, calls = text[begin:], []
        while rest.startswith(self.opening):
            found, after = _values(rest[len(self.opening) :].lstrip())
            if not found or None in found:
                break
            calls += [each for each in found if each is not None]
            rest = after.removeprefix(self.closing).lstrip()
            if not self.opening:
                break
        if not calls or (rest and not self.opening):
            return text, []
        return text[:begin].rstrip() + (f"\n{rest}" if rest else ""), calls

    @staticmethod
    def _after_thought(text: str) -> int:
        """Where a train of thought ends: what it considers to call is not called."""
        return text.rfind(_THOUGHT) + len(_THOUGHT) if _THOUGHT in text else 0

    def safe(self, text: str) -> int:
        """How many characters of the beginning of an answer are no part of a call, whatever follows."""
        if not self.opening:
            return 0 if text.lstrip()[:1] in ("", "{", "[") else len(text)
        begin = text.find(self.opening, self._after_thought(text))
        if begin < 0:
            lengths = range(min(len(text), len(self.opening) - 1), 0, -1)
            begin = len(text) - next((length for length in lengths if text.endswith(self.opening[:length])), 0)
        return len(text[:begin].rstrip())


class HeldCalls:
    """Hands the text of an answer on as it grows, up to where a call may begin."""

    def __init__(self, syntax: CallSyntax, show: Callable[[str], None]) -> None:
        self._syntax, self._show = syntax, show
        self._text, self._shown = "", 0

    def __call__(self, piece: str) -> None:
        self._text += piece
        safe = self._syntax.safe(self._text)
        if safe > self._shown:
            self._show(self._text[self._shown : safe])
            self._shown = safe


def syntax_of(layout: Layout) -> CallSyntax | None:
    """How the chat template of a model writes calls; None where it knows no tools. Where it does not write them as JSON,
    `CallSyntax` finds none in the answers."""
    value = {"type": "string", "description": "a value"}
    parameters = {"type": "object", "properties": {"value": value}, "required": ["value"]}
    function = {"name": _PROBE["name"], "description": "a function", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    try:
        segments = layout.rendered(
            [
                Segment("tools", json.dumps(tools)),
                Segment("user", "?"),
                Segment("calls", json.dumps([{"id": "llmctl000", **_PROBE}]), in_loss=True),
            ]
        )
    except DataError:
        return None
    written = "".join(each.text for each in segments if each.in_loss and not layout.ends_answer(each))
    for begin, sign in enumerate(written):
        if sign not in "[{":
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(written, begin)
        except ValueError:
            continue
        if None not in [_call(each) for each in (value if isinstance(value, list) else [value])]:
            opening, closing = written[:begin].split()[-1:], written[end:].split()[:1]
            if opening and layout.shown(opening[0]) == opening[0]:
                return CallSyntax(opening[0], closing[0] if closing else "")
            return CallSyntax()
    return CallSyntax()


def _values(text: str) -> tuple[list[dict[str, Any] | None], str]:
    """The calls in the JSON values that a text begins with, None for one that is no call, and the rest of the text."""
    found: list[dict[str, Any] | None] = []
    while text[:1] in ("{", "["):
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            break
        found += [_call(each) for each in (value if isinstance(value, list) else [value])]
        text = text[end:].lstrip()
    return found, text


def _call(value: Any) -> dict[str, Any] | None:
    """A call in OpenAI's form; None for JSON that is none. Its id is one that Mistral's templates take too."""
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function", value)
    if not isinstance(inner, Mapping):
        return None
    name, arguments = inner.get("name"), inner.get("arguments", inner.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, Mapping | str):
        return None
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": secrets.token_hex(5)[:9],
        "type": "function",
        "function": {"name": name, "arguments": text},
    }
