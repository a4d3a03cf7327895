"""Terminal capabilities and safe text: colour, width, escaping."""

from __future__ import annotations

import os
import unicodedata
from typing import IO, Final

_KEPT: Final = frozenset("\n\t")


def plain(text: str) -> str:
    """Escape control, bidirectional and zero-width characters, so that text from data is safe to print."""
    return "".join(
        char
        if char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def fancy(stream: IO[str]) -> bool:
    """Whether to show progress bars and colour on this stream."""
    dull = os.environ.get("CI") == "true" or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not dull


def width(stream: IO[str]) -> int:
    """Width of the terminal in columns; 100 if the stream is not a terminal."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns if stream.isatty() else 100


def columns(text: str) -> int:
    """Width of text in terminal columns; wide characters (Chinese, Japanese, Korean) take two."""
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )
