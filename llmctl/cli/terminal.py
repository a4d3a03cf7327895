"""What a stream can show: colour, columns, text that is safe to print."""

from __future__ import annotations

import os
import unicodedata
from typing import IO, Final

_KEPT: Final = frozenset("\n\t")


def plain(text: str) -> str:
    """Text from data made safe to show: control, bidirectional and zero-width characters are escaped."""
    return "".join(
        char
        if char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def fancy(stream: IO[str]) -> bool:
    """Whether bars and colour may be shown on this stream."""
    dull = os.environ.get("CI") == "true" or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not dull


def width(stream: IO[str]) -> int:
    """Columns of the terminal; 100 where there is none."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns if stream.isatty() else 100


def columns(text: str) -> int:
    """How many columns text takes: Chinese characters take two."""
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )
