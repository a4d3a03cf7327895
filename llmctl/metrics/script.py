"""Script detection by counting characters; it decides how metrics tokenize a text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

Script = Literal["latin", "chinese", "japanese", "korean", "other"]

# Unicode 16 blocks, letters only. Sources: Scripts.txt (Han, Hiragana, Katakana, Hangul, Latin).
_HAN: Final = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA: Final = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL: Final = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa1-\uffdc"
_LATIN: Final = "A-Za-zªº\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02b8\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"

_COUNTED: Final = {
    "han": re.compile(f"[{_HAN}]"),
    "kana": re.compile(f"[{_KANA}]"),
    "hangul": re.compile(f"[{_HANGUL}]"),
    "latin": re.compile(f"[{_LATIN}]+"),
    "other": re.compile(f"[^\\W\\d_{_HAN}{_KANA}{_HANGUL}{_LATIN}]+"),
}
_EAST_ASIAN: Final = re.compile(f"[{_HAN}{_KANA}{_HANGUL}]")

EAST_ASIAN: Final = frozenset({"chinese", "japanese", "korean"})
"""Scripts whose text is split into characters: spaces do not separate their words, or do so too coarsely."""

_KANA_OF_JAPANESE: Final = 10
"""Japanese prose is about half kana; Chinese prose has kana only in names. One tenth separates the two."""


def script_of(texts: Iterable[str]) -> Script:
    """The dominant script of all texts together.

    A Chinese, Japanese or Korean character counts as much as a word in any other script, so that a Chinese sentence
    full of Latin names is still Chinese. Text without letters counts as `latin`.
    """
    counts = dict.fromkeys(_COUNTED, 0)
    for text in texts:
        for name, pattern in _COUNTED.items():
            counts[name] += len(pattern.findall(text))
    ideographic = counts["han"] + counts["kana"]
    if ideographic + counts["hangul"] > counts["latin"] + counts["other"]:
        if counts["hangul"] > ideographic:
            return "korean"
        return "japanese" if counts["kana"] * _KANA_OF_JAPANESE >= ideographic else "chinese"
    return "other" if counts["other"] > counts["latin"] else "latin"


def split_characters(text: str) -> str:
    """The text with spaces around every Chinese, Japanese and Korean character; other words are not split."""
    return _EAST_ASIAN.sub(r" \g<0> ", text)
