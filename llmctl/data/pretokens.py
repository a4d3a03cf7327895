"""Encoding fast: each distinct pre-token once, its ids gathered with numpy.

A tokenizer cuts text into pre-tokens (words with their leading blank) and encodes each alone. Text has few distinct
ones, so looking an id up is faster than finding it again. Exact where the cut is known: here GPT-2's pattern (Radford
et al. 2019), as `tokenizers.pre_tokenizers.ByteLevel` applies it. What is a letter, a number, a blank is asked of that
pre-tokenizer for every character met, so that two versions of Unicode cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CHUNK_CHARACTERS: Final = 1 << 20
"""Text whose pre-tokens are in memory at once: a string of each costs about ten times the text."""
LARGEST_TABLE: Final = 1 << 18
"""Distinct pre-tokens that are remembered, about 40 MB."""
LARGEST_TABLE_CHARACTERS: Final = 1 << 23
POOR_SHARE: Final = 0.25
"""Where more than this share of pre-tokens is new (long Chinese phrases), remembering does not pay."""

Ids = NDArray[np.uint32]
Lengths = NDArray[np.int64]

_SEAM: Final = re.compile(r"(?<=[!-~])(?= [!-~])")
"""Between a visible ASCII character and a blank before another: every pattern that is used here cuts there."""


def pieces(text: str, size: int = CHUNK_CHARACTERS) -> Iterator[str]:
    """The text in pieces of about `size` characters, cut where pre-tokens end in any case."""
    start = 0
    while len(text) - start > size:
        seam = _SEAM.search(text, start + size)
        if seam is None:
            break
        yield text[start : seam.start()]
        start = seam.start()
    yield text[start:] if start else text


class Splitter:
    """GPT-2's cut of text into pre-tokens, as one regular expression over the characters met so far."""

    def __init__(self, pre_tokenizer: Any) -> None:
        self._pre_tokenizer = pre_tokenizer
        self._classes: dict[str, list[str]] = {"letter": [], "number": [], "blank": []}
        self._known: set[str] = set()
        self.meet([chr(code) for code in range(128)])

    def split(self, text: str) -> list[str]:
        """The pre-tokens of a text whose characters were met."""
        return self._pattern.findall(text)

    def meet(self, texts: Iterable[str]) -> None:
        """Learn what the characters of these texts are. Dear where any is new, so best for many texts at once."""
        characters = set().union(*texts) - self._known
        if not characters:
            return
        for each in sorted(characters):
            kind = self._kind(each)
            if kind in self._classes:
                self._classes[kind].append(each)
        self._known |= characters
        letters, numbers, blanks = (_class(self._classes[kind]) for kind in ("letter", "number", "blank"))
        # 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ with the likeliest first: no two of
        # these alternatives begin alike but the contractions and the third kind of run.
        self._pattern = re.compile(
            f" ?(?:[{letters}]+|[{numbers}]+)|'(?:[stmd]|re|ve|ll)| ?[^{letters}{numbers}{blanks}]+"
            f"|[{blanks}]+(?![^{blanks}])|[{blanks}]+"
        )

    def _kind(self, character: str) -> str:
        for kind, one in (("letter", "a"), ("number", "1"), ("other", "!")):
            if len(self._pre_tokenizer.pre_tokenize_str(one + character)) == 1:
                return kind
        return "blank"


def _class(characters: Sequence[str]) -> str:
    """The inside of a character class, in ranges."""
    codes = np.sort(np.array([ord(each) for each in characters], np.int64))
    breaks = np.flatnonzero(np.diff(codes) != 1)
    firsts, lasts = codes[np.r_[0, breaks + 1]], codes[np.r_[breaks, len(codes) - 1]]
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in zip(firsts, lasts, strict=True))


class _Table(dict[str, int]):
    """Pre-token -> its number; a new one gets the next and waits to be encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.waiting.append(word)
        return number


class Words:
    """Ids of texts by their pre-tokens."""

    def __init__(
        self, tokenizer: Any, *, most_words: int = LARGEST_TABLE, most_characters: int = LARGEST_TABLE_CHARACTERS
    ) -> None:
        """At `most_words` distinct pre-tokens, or so many characters of them, all are forgotten."""
        self._tokenizer = tokenizer
        self._most_words, self._most_characters = most_words, most_characters
        self._splitter = Splitter(tokenizer.pre_tokenizer)
        self.pays = True
        """False once remembering was seen not to pay."""
        self._forget()

    @property
    def known(self) -> int:
        """Distinct pre-tokens that are remembered."""
        return len(self._table)

    def _forget(self) -> None:
        self._table = _Table()
        self._characters = 0
        self._ids: Ids = np.zeros(0, np.uint32)
        self._starts: Lengths = np.zeros(0, np.int64)
        self._lengths: Lengths = np.zeros(0, np.int64)

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """(N,) ids of all texts together, (T,) how many each text has."""
        if len(self._table) > self._most_words or self._characters > self._most_characters:
            self._forget()
        self._splitter.meet(text for text in texts if not text.isascii())
        words: list[str] = []
        ends = np.zeros(len(texts) + 1, np.int64)
        for number, text in enumerate(texts, start=1):
            words += self._splitter.split(text)
            ends[number] = len(words)
        found = np.fromiter(map(self._table.__getitem__, words), np.int64, len(words))
        new = self._table.waiting
        self.pays = len(words) < 50_000 or len(new) < POOR_SHARE * len(words)
        if new:
            self._learn(new)
        lengths = self._lengths[found]
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Token j of a word lies at the word's start in `_ids` plus j: one gather for all words.
        places = np.arange(offsets[-1]) + np.repeat(self._starts[found] - offsets[:-1], lengths)
        return self._ids[places], np.diff(offsets[ends])

    def _learn(self, words: list[str]) -> None:
        encoded = [each.ids for each in self._tokenizer.encode_batch_fast(words, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        starts = len(self._ids) + np.cumsum(lengths) - lengths
        flat = np.fromiter((id for ids in encoded for id in ids), np.uint32, int(lengths.sum()))
        self._ids = np.concatenate([self._ids, flat])
        self._starts = np.concatenate([self._starts, starts])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._characters += sum(map(len, words))
        words.clear()
