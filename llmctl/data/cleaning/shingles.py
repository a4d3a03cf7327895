"""Shingles of texts as hashes, for near-duplicates and overlaps: runs of words, or of characters without spaces.

A word is a run of letters and digits in lower case; punctuation does not count. In scripts that put no
spaces between words (Chinese, Japanese, Thai, …) every character is a word. A shingle is a run of `size` words, joined by
nothing but their order; a shorter text is one shingle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]
Counts = NDArray[np.int64]

UNSPACED: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Ranges of characters that are written without spaces between words; Korean is written with spaces."""
_WORD: Final = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_ASCII_WORDS: Final = bytes(code if chr(code).isalnum() else ord(" ") for code in range(128)).ljust(256)
"""Every ASCII character outside of words is a blank: splitting at blanks is faster than matching words."""
LARGEST_TABLE: Final = 1 << 20
"""Most distinct words whose hashes are kept."""
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: an odd multiplier without structure (Knuth, TAOCP 3, section 6.4)."""


class _Table(dict[str, int]):
    """Word -> a 64-bit hash that is the same in every process."""

    def __missing__(self, word: str) -> int:
        from hashlib import blake2b

        number = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = number
        return number


class Shingler:
    """Turns texts into hashes of their shingles. Remembers the hashes of words, so reuse it."""

    def __init__(self, size: int) -> None:
        """`size`: words, or characters in scripts without spaces, in a shingle."""
        self.size = size
        self._table = _Table()

    def shingles(self, texts: Sequence[str]) -> tuple[Hashes, Counts]:
        """(N,) the hashes of the shingles of all texts, in order and with repetitions, and (T,) their number in each.

        A text without words has none.
        """
        if len(self._table) > LARGEST_TABLE:
            self._table.clear()
        words: list[str] = []
        ends = np.zeros(len(texts) + 1, np.int64)
        for number, text in enumerate(texts, start=1):
            lower = text.lower()
            if lower.isascii():
                words += lower.encode().translate(_ASCII_WORDS).decode().split()
            else:
                words += _WORD.findall(lower)
            ends[number] = len(words)
        codes = np.fromiter(map(self._table.__getitem__, words), np.uint64, len(words))
        lengths = np.diff(ends)  # (T,) in words
        counts = np.where(lengths == 0, 0, np.maximum(lengths - self.size + 1, 1))
        # The shingle that starts at word j ends before word j + size, or at the end of its text.
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        starts = np.arange(offsets[-1]) + np.repeat(ends[:-1] - offsets[:-1], counts)  # (N,)
        short = np.repeat(lengths < self.size, counts)
        last = np.repeat(ends[1:], counts)
        hashes = np.zeros(len(starts), np.uint64)
        for step in range(self.size):
            at = starts + step
            inside = at < last if short.any() else slice(None)
            hashes[inside] = (hashes[inside] ^ codes[at[inside]]) * _GOLDEN
            hashes[inside] ^= hashes[inside] >> np.uint64(29)
        return _mixed(hashes), counts


def _mixed(hashes: NDArray[Any]) -> Hashes:
    """The upper half of each hash after a final mixing step, as in SplitMix64 (Steele, Lea and Flood 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = ((hashes ^ (hashes >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
    return mixed
