"""Text cleaning, the first step of preprocessing. Every rule takes linear time and is idempotent."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from llmctl.data.spec import Clean
from llmctl.types import TOOL_JSON

MARKS_TOGETHER: Final = 512
"""Runs of combining marks from this length on are not normalised, because ordering a run takes quadratic time.
Unicode's Stream-Safe Text Format (UAX #15, section 13) considers 30 to be more than any language needs."""

BLANKS: Final = "\t \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""Tab and Unicode's space separators (category Zs); U+3000 is the full-width space of Chinese."""

_NEWLINES: Final = re.compile("\r\n|[\r\v\f\u0085\u2028\u2029]")
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RUN: Final = re.compile(f"([{BLANKS}])\\1+")
_MIXED: Final = re.compile(f"[{BLANKS}]{{2,}}")
_LINE_END: Final = re.compile(f"[{BLANKS}]\n")
_BLANK_LINES: Final = re.compile("\n{3,}")
_RUN_INSIDE: Final = re.compile(f"(?<=[^{BLANKS}\n])([{BLANKS}])\\1+(?![{BLANKS}])")
"""A run of one blank after the first visible character of a line. The lookbehind lets each run be tried once only."""
_MIXED_INSIDE: Final = re.compile(f"(?<=[^{BLANKS}\n])[{BLANKS}]{{2,}}")
_BLANKS_AT_END: Final = re.compile(f"(?<![{BLANKS}])[{BLANKS}]+\n")
_OUTSIDE: Final = "\n" + "".join(chr(code) for code in range(0x3001) if unicodedata.category(chr(code)) == "Zs") + "\t"
_ASCII_DIRT: Final = bytes(code for code in range(128) if chr(code) != "\n" and not chr(code).isprintable())


class Cleaner:
    """Applies a `Clean` spec to text, counts the NUL characters removed and names the rules that changed a text."""

    def __init__(self, spec: Clean) -> None:
        self.nul = 0
        """NUL characters removed."""
        self.applied: set[str] = set()
        """Rules that changed a text since the caller last cleared this set: keys of `Clean`, and `newlines`."""
        self._spec = spec
        self._form: Any = None if spec.unicode == "none" else spec.unicode.upper()

    def text(self, text: str) -> str:
        """Clean a text."""
        spec = self._spec
        if _already_clean(text):
            text = self._changed("lowercase", text, text.lower()) if spec.lowercase else text
            if not spec.whitespace or (text[:1] > " " and text[-1] > " "):
                return text
            return self._changed("whitespace", text, self._fold(text, ends_only=True))
        if spec.whitespace and _NEWLINES.search(text):
            text = self._changed("newlines", text, _NEWLINES.sub("\n", text))
        if spec.control and _CONTROLS.search(text):
            self.nul += text.count("\0")
            text = self._changed("control", text, _CONTROLS.sub("", text))
        text = self._changed("unicode", text, self._normalized(text))
        if spec.lowercase:
            text = self._changed("lowercase", text, self._normalized(text.lower()))
        return self._changed("whitespace", text, self._fold(text)) if spec.whitespace else text

    def _changed(self, rule: str, before: str, after: str) -> str:
        if before != after:
            self.applied.add(rule)
        return after

    def _fold(self, text: str, *, ends_only: bool = False) -> str:
        """Fold blanks; with `ends_only`, the text needs it only at its start and end."""
        if not self._spec.indentation:
            return text.strip(_OUTSIDE) if ends_only else _fold_whitespace(text)
        if not ends_only:
            if _MIXED.search(text):
                text = _MIXED_INSIDE.sub(" ", _RUN_INSIDE.sub(r"\1", text))
            if "\n" in text:
                text = _BLANK_LINES.sub("\n\n", _BLANKS_AT_END.sub("\n", text))
        text = text.rstrip(_OUTSIDE).lstrip("\n")
        # A text of one line has no structure that its indentation could be a part of.
        return text if "\n" in text else text.lstrip(_OUTSIDE)

    def value(self, value: Any) -> Any:
        """Clean a text, the items of a list, or the content of a message; other values stay unchanged."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, (dict, Mapping)):  # dictionaries are recognised faster
            content = value.get("content")
            if isinstance(content, str) and value.get("role") not in TOOL_JSON:
                return {**value, "content": self.text(content)}
        return value

    def _normalized(self, text: str) -> str:
        if self._form is None or text.isascii():
            return text
        # Even is_normalized may normalise the text, so long runs are taken out first.
        mark, long_run = _marks()
        pieces = long_run.split(text) if mark.search(text) else [text]
        # Odd pieces are the long runs, which stay unchanged.
        return "".join(
            piece
            if number % 2 or unicodedata.is_normalized(self._form, piece)
            else unicodedata.normalize(self._form, piece)
            for number, piece in enumerate(pieces)
        )


def is_invisible(text: str) -> bool:
    """Whether a text shows nothing: it has only blanks, control characters, and marks of format such as U+200B."""
    return all(each.isspace() or unicodedata.category(each) in ("Cc", "Cf") for each in text)


def _already_clean(text: str) -> bool:
    """Whether this is ASCII text that no rule but lower-casing changes except at its ends.

    This is by far the most common case, and the check is ten times as fast as applying the rules.
    """
    if not text.isascii() or "  " in text or " \n" in text or "\n\n\n" in text:
        return False
    return len(text.encode().translate(None, _ASCII_DIRT)) == len(text)


@functools.cache
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for a combining mark and for a long run of them; compiled on first use, because that is slow.

    All of plane 1 is one range, for speed: it has few marks, and runs of 512 of its characters are rare.
    """
    low = "".join(re.escape(chr(code)) for code in range(0x10000) if unicodedata.combining(chr(code)))
    marks = f"[{low}\U00010000-\U0001ffff]"
    return re.compile(marks), re.compile(f"({marks}{{{MARKS_TOGETHER},}})")


def _fold_whitespace(text: str) -> str:
    """Fold a run of blanks to one (the same one if all are equal, else a space), strip line ends, keep one blank line.

    The rule of version 0.1, without indentation.
    """
    if _MIXED.search(text):
        text = _MIXED.sub(" ", _RUN.sub(r"\1", text))
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n", _LINE_END.sub("\n", text))
    return text.strip(_OUTSIDE)
