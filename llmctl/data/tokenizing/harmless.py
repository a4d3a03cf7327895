"""Calls and definitions of tools without names of control tokens, whole or in parts, before a chat template sees them.

A template writes `<parameter=KEY>` or `<KEY>`: a key that is a part of a name would complete it. So a `BREAK` goes into every
part of a string that may end up inside a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmctl.data.tokenizing.chat_template import BREAK
from llmctl.errors import DataError

_RESERVED: Final = ("\ue000", "\ue001", BREAK)
_VOCABULARY: Final = frozenset(
    (
        *("type", "function", "name", "description", "parameters", "strict", "properties", "required", "items", "enum"),
        *("anyOf", "allOf", "oneOf", "default", "format", "title", "minimum", "maximum", "additionalProperties"),
        *("return", "nullable", "const"),
        *("string", "object", "array", "number", "integer", "boolean", "null", "arguments", "id"),
    )
)
"""Words of JSON Schema and of OpenAI's interface, which templates compare and look up."""


class Harmless:
    """Makes strings that cannot be a part of the name of a control token."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._beginnings = frozenset(name[:length] for name in names for length in range(1, len(name)))
        self._endings = frozenset(name[-length:] for name in names for length in range(1, len(name)))
        self._insides = "\n".join(name[1:-1] for name in names)
        self._longest = max(map(len, names), default=1) - 1

    def calls(self, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Calls, of which the keys stay."""
        return [{key: self._value(value) for key, value in call.items()} for call in calls]

    def definitions(self, definitions: Sequence[Any]) -> list[Any]:
        """Definitions, in which words that templates look up stay."""
        return [self._value(each) for each in definitions]

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value in _VOCABULARY else self._text(value)
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, Mapping):
            return {self._value(key): self._value(each) for key, each in value.items()}
        return value

    def _text(self, text: str) -> str:
        if any(each in text for each in _RESERVED):
            raise DataError("a call or definition of a tool contains a private-use character from U+E000 to U+E002")
        for name in self._names:
            if name in text:
                text = text.replace(name, name[:1] + BREAK + name[1:])
        lengths = range(1, min(len(text), self._longest) + 1)
        places = {len(text) - length + 1 for length in lengths if text[-length:] in self._beginnings}
        places |= {length - 1 for length in lengths if text[:length] in self._endings}
        if text and text in self._insides:
            places.add(0)
        for place in sorted(places, reverse=True):
            text = text[:place] + BREAK + text[place:]
        return text
