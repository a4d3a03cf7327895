"""Cleaning: what text is before anything else sees it. Every rule is linear in the text and changes clean text no more."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from llmctl.data.spec import Clean

MARKS_TOGETHER: Final = 512
"""Longest run of combining marks that is normalised: ordering a run is quadratic. Unicode's Stream-Safe format (UAX #15,
section 13) takes 30 for more than any language needs."""

BLANKS: Final = "\t \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""Tab and Unicode's space separators (category Zs); U+3000 is the full-width space of Chinese."""

_NEWLINES: Final = re.compile("\r\n|[\r\v\f\u0085\u2028\u2029]")
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RUN: Final = re.compile(f"([{BLANKS}])\\1+")
_MIXED: Final = re.compile(f"[{BLANKS}]{{2,}}")
_LINE_END: Final = re.compile(f"[{BLANKS}]\n")
_BLANK_LINES: Final = re.compile("\n{3,}")
_OUTSIDE: Final = "\n" + "".join(chr(code) for code in range(0x3001) if unicodedata.category(chr(code)) == "Zs") + "\t"
_ASCII_DIRT: Final = bytes(code for code in range(128) if chr(code) != "\n" and not chr(code).isprintable())


class Cleaner:
    """A `Clean` spec as a function of text, counting what it met."""

    def __init__(self, spec: Clean) -> None:
        self.nul = 0
        """NUL characters removed."""
        self._spec = spec
        self._form: Any = None if spec.unicode == "none" else spec.unicode.upper()

    def text(self, text: str) -> str:
        """The text, cleaned."""
        spec = self._spec
        if _settled(text):
            text = text.lower() if spec.lowercase else text
            return text.strip(_OUTSIDE) if spec.whitespace else text
        if spec.whitespace and _NEWLINES.search(text):
            text = _NEWLINES.sub("\n", text)
        if spec.control and _CONTROLS.search(text):
            self.nul += text.count("\0")
            text = _CONTROLS.sub("", text)
        text = self._normalized(text)
        if spec.lowercase:
            text = self._normalized(text.lower())
        return _folded(text) if spec.whitespace else text

    def value(self, value: Any) -> Any:
        """Text inside lists and turns of a conversation too; what is no text stays."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, Mapping):
            return {
                **value,
                **{name: self.text(value[name]) for name in ("content",) if isinstance(value.get(name), str)},
            }
        return value

    def _normalized(self, text: str) -> str:
        if self._form is None or text.isascii():
            return text
        # Even asking whether text is normalised may normalise it, so long runs are taken out first.
        mark, long_run = _marks()
        pieces = long_run.split(text) if mark.search(text) else [text]
        # Odd pieces are the long runs: they stay as they are.
        return "".join(
            piece
            if number % 2 or unicodedata.is_normalized(self._form, piece)
            else unicodedata.normalize(self._form, piece)
            for number, piece in enumerate(pieces)
        )


def _settled(text: str) -> bool:
    """ASCII text that no rule changes but at its ends: the commonest by far, and this is ten times as fast as to try."""
    if not text.isascii() or "  " in text or " \n" in text or "\n\n\n" in text:
        return False
    return len(text.encode().translate(None, _ASCII_DIRT)) == len(text)


@functools.cache
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A combining mark, and a long run of them. Made when first needed: it asks for the class of many characters.

    Plane 1 is one range, for speed: its marks are few, and so are runs of 512 of its characters.
    """
    low = "".join(re.escape(chr(code)) for code in range(0x10000) if unicodedata.combining(chr(code)))
    marks = f"[{low}\U00010000-\U0001ffff]"
    return re.compile(marks), re.compile(f"({marks}{{{MARKS_TOGETHER},}})")


def _folded(text: str) -> str:
    """One blank for a run of blanks (its own where all are alike, else a space), none at line ends, one blank line at most."""
    if _MIXED.search(text):
        text = _MIXED.sub(" ", _RUN.sub(r"\1", text))
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n", _LINE_END.sub("\n", text))
    return text.strip(_OUTSIDE)
