"""The writing system of a text, found by counting characters, and words as it has them."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import Final, Literal

Script = Literal["latin", "chinese", "japanese", "korean", "unspaced", "other"]
"""`unspaced`: Thai, Lao, Khmer, Burmese, Tibetan and others that put no spaces between words."""

# Unicode 16 blocks, letters only. Sources: Scripts.txt (Han, Hiragana, Katakana, Hangul, Latin).
_HAN: Final = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA: Final = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL: Final = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa1-\uffdc"
_UNSPACED: Final = tuple(
    chr(code)
    for first, last in (
        (0x0E00, 0x0EFF),  # Thai, Lao
        (0x0F00, 0x0FFF),  # Tibetan
        (0x1000, 0x109F),  # Myanmar
        (0x1780, 0x17FF),  # Khmer
        (0x1950, 0x19DF),  # Tai Le, New Tai Lue
        (0x1A20, 0x1AAF),  # Tai Tham
        (0x3105, 0x312F),  # Bopomofo
        (0xA000, 0xA48F),  # Yi
        (0xA980, 0xA9FF),  # Javanese, Myanmar Extended-B
        (0xAA60, 0xAADF),  # Myanmar Extended-A, Tai Viet
    )
    for code in range(first, last + 1)
)
_UNSPACED_LETTERS: Final = "".join(each for each in _UNSPACED if unicodedata.category(each)[0] == "L")
_UNSPACED_MARKS: Final = "".join(each for each in _UNSPACED if unicodedata.category(each)[0] == "M")
_LATIN: Final = "A-Za-zªº\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02b8\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"

_COUNTED: Final = {
    "han": f"[{_HAN}]",
    "kana": f"[{_KANA}]",
    "hangul": f"[{_HANGUL}]",
    "unspaced": f"[{_UNSPACED_LETTERS}]",
    "latin": f"[{_LATIN}]+",
    "other": f"[^\\W\\d_{_HAN}{_KANA}{_HANGUL}{_LATIN}{_UNSPACED_LETTERS}]+",
}
_SPLIT: Final = f"[{_HAN}{_KANA}{_HANGUL}]|[{_UNSPACED_LETTERS}][{_UNSPACED_MARKS}]*"

_MARKS: Final = "\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
"""Combining marks, and the blocks of Indian scripts without their full stops: Python's `\\w` has no marks."""
_ONE: Final = f"{_HAN}{_KANA}{_UNSPACED_LETTERS}"
_WORD: Final = f"[^\\W_{_ONE}][{_MARKS}]*"
_UNITS: Final = f"[{_ONE}]|(?:{_WORD})+(?:['’-](?:{_WORD})+)*"
_ASCII_UNITS: Final = re.compile("[a-zA-Z0-9]+(?:['-][a-zA-Z0-9]+)*")

SPLIT: Final[frozenset[Script]] = frozenset({"chinese", "japanese", "korean", "unspaced"})
"""Scripts whose text is split into characters: spaces do not separate their words, or do so too coarsely."""

UNSPACED: Final[frozenset[Script]] = SPLIT - {"korean"}
"""Scripts without spaces between words."""

_KANA_OF_JAPANESE: Final = 10
"""Japanese prose is about half kana; Chinese prose has kana only in names. One tenth separates the two."""


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiled on first use, because these classes of characters take 50 ms."""
    return re.compile(pattern)


def script_of(texts: Iterable[str]) -> Script:
    """The dominant script of all texts together.

    A character of a script in `SPLIT` counts as much as a word in any other script, so that a Chinese sentence full of
    Latin names is still Chinese. Text without letters counts as `latin`.
    """
    counts = dict.fromkeys(_COUNTED, 0)
    for text in texts:
        for name in ("latin",) if text.isascii() else _COUNTED:
            counts[name] += len(_compiled(_COUNTED[name]).findall(text))
    ideographic = counts["han"] + counts["kana"]
    spaced = counts["latin"] + counts["other"]
    if counts["unspaced"] > max(spaced, ideographic + counts["hangul"]):
        return "unspaced"
    if ideographic + counts["hangul"] > spaced:
        if counts["hangul"] > ideographic:
            return "korean"
        return "japanese" if counts["kana"] * _KANA_OF_JAPANESE >= ideographic else "chinese"
    return "other" if counts["other"] > counts["latin"] else "latin"


def split_characters(text: str) -> str:
    """The text with spaces around every character of a script in `SPLIT`, with its marks; other words are not split."""
    return _compiled(_SPLIT).sub(r" \g<0> ", text)


def units_of(text: str) -> list[str]:
    """The words of a text in order, without punctuation: characters of scripts that put no blanks between words."""
    return (_ASCII_UNITS if text.isascii() else _compiled(_UNITS)).findall(text)
