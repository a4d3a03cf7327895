"""Fast encoding: encodes each distinct pre-token once and gathers the ids with numpy.

A tokenizer splits text into pre-tokens (words with their leading blank) and encodes each independently. Text has few
distinct pre-tokens, so a lookup is faster than encoding again. The result is exact if the splitting pattern is known;
here it is GPT-2's (Radford et al. 2019), as `tokenizers.pre_tokenizers.ByteLevel` applies it. That pre-tokenizer itself
classifies each new character as letter, number or blank, so that different versions of Unicode cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.tokenizing.plain import encoded_batch, encoded_words

CHUNK_CHARACTERS: Final = 1 << 20
"""Text whose pre-tokens are in memory at once; as strings they take about ten times the memory of the text."""
LARGEST_TABLE: Final = 1 << 18
"""Most distinct pre-tokens that are cached, about 40 MB."""
LARGEST_TABLE_CHARACTERS: Final = 1 << 23
POOR_SHARE: Final = 0.25
"""If a larger fraction of the pre-tokens is new (as with long Chinese phrases), caching is not worthwhile."""

Ids = NDArray[np.uint32]
Lengths = NDArray[np.int64]

_SEAM: Final = re.compile(r"(?<=[!-~])(?= [!-~])")
"""Between a visible ASCII character and a space before another one: every pattern used here splits there."""


def pieces(text: str, size: int = CHUNK_CHARACTERS) -> Iterator[str]:
    """Split the text into pieces of about `size` characters, at places where a pre-token always ends."""
    start = 0
    while len(text) - start > size:
        seam = _SEAM.search(text, start + size)
        if seam is None:
            break
        yield text[start : seam.start()]
        start = seam.start()
    yield text[start:] if start else text


class Splitter:
    """Splits text into pre-tokens as GPT-2 does, with one regular expression over the characters seen so far."""

    def __init__(self, pre_tokenizer: Any) -> None:
        self._pre_tokenizer = pre_tokenizer
        self._classes: dict[str, list[str]] = {"letter": [], "number": [], "blank": []}
        self._known: set[str] = set()
        self.add([chr(code) for code in range(128)])

    def split(self, text: str) -> list[str]:
        """The pre-tokens of a text; its characters must have been added."""
        return self._pattern.findall(text)

    def add(self, texts: Iterable[str]) -> None:
        """Classify the characters of these texts. Expensive if any is new, so pass many texts at once."""
        characters = set().union(*texts) - self._known
        if not characters:
            return
        for each in sorted(characters):
            kind = self._kind(each)
            if kind in self._classes:
                self._classes[kind].append(each)
        self._known |= characters
        letters, numbers, blanks = (_class(self._classes[kind]) for kind in ("letter", "number", "blank"))
        # 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ with the most frequent first, and without
        # steps back. The order matters only for the contractions and the third run, since no other two can start alike.
        self._pattern = re.compile(
            f" [{letters}]++|[{letters}]++|'(?:[stmd]|re|ve|ll)| ?[^{letters}{numbers}{blanks}]++| ?[{numbers}]++"
            f"|[{blanks}]+(?![^{blanks}])|[{blanks}]++"
        )

    def _kind(self, character: str) -> str:
        for kind, one in (("letter", "a"), ("number", "1"), ("other", "!")):
            if len(self._pre_tokenizer.pre_tokenize_str(one + character)) == 1:
                return kind
        return "blank"


def _class(characters: Sequence[str]) -> str:
    """The ranges of a regular expression's character class."""
    codes = np.sort(np.array([ord(each) for each in characters], np.int64))
    breaks = np.flatnonzero(np.diff(codes) != 1)
    firsts, lasts = codes[np.r_[0, breaks + 1]], codes[np.r_[breaks, len(codes) - 1]]
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in zip(firsts, lasts, strict=True))


class _Table(dict[str, int]):
    """Pre-token -> its index; a new one gets the next index and is queued in `waiting` to be encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.waiting.append(word)
        return number


class Words:
    """Encodes texts through a cache of pre-tokens."""

    def __init__(
        self, tokenizer: Any, *, most_words: int = LARGEST_TABLE, most_characters: int = LARGEST_TABLE_CHARACTERS
    ) -> None:
        """The cache is cleared above `most_words` distinct pre-tokens, or `most_characters` characters of them."""
        self._tokenizer = tokenizer
        self._most_words, self._most_characters = most_words, most_characters
        self._splitter = Splitter(tokenizer.pre_tokenizer)
        self.pays = True
        """False if caching was not worthwhile for the last texts."""
        self._clear()

    @property
    def known(self) -> int:
        """Number of distinct pre-tokens in the cache."""
        return len(self._table)

    def _clear(self) -> None:
        self._table = _Table()
        self._characters = 0
        self._ids: Ids = np.zeros(0, np.uint32)
        self._starts: Lengths = np.zeros(0, np.int64)
        self._lengths: Lengths = np.zeros(0, np.int64)

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """(N,) ids of all texts, concatenated, and (T,) the number of ids of each text."""
        if len(self._table) > self._most_words or self._characters > self._most_characters:
            self._clear()
        self._splitter.add(text for text in texts if not text.isascii())
        words: list[str] = []
        ends = np.zeros(len(texts) + 1, np.int64)
        for number, text in enumerate(texts, start=1):
            words += self._splitter.split(text)
            ends[number] = len(words)
        found = np.fromiter(map(self._table.__getitem__, words), np.int64, len(words))
        new = self._table.waiting
        self.pays = len(words) < 50_000 or len(new) < POOR_SHARE * len(words)
        if new:
            self._encode_new(new)
        lengths = self._lengths[found]
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Token j of a word is at the word's start in `_ids` plus j, so one gather serves all words.
        places = np.arange(offsets[-1]) + np.repeat(self._starts[found] - offsets[:-1], lengths)
        return self._ids[places], np.diff(offsets[ends])

    def _encode_new(self, words: list[str]) -> None:
        # Words that begin with a blank stay apart when they are joined, and a long text is encoded faster than many words.
        apart = np.array([word[0] == " " and not word[1:2].isspace() and len(word) > 1 for word in words], bool)
        joined = encoded_words(self._tokenizer, list(compress(words, apart)))
        encoded = encoded_batch(self._tokenizer, list(compress(words, ~apart)))
        lengths = np.empty(len(words), np.int64)
        lengths[apart], lengths[~apart] = joined[1], [len(ids) for ids in encoded]
        starts = np.empty(len(words), np.int64)
        for own in (apart, ~apart):
            starts[own] = np.cumsum(lengths[own]) - lengths[own]
        starts[~apart] += len(joined[0])
        starts += len(self._ids)
        flat = np.concatenate([joined[0], np.fromiter(chain.from_iterable(encoded), np.uint32)])
        self._ids = np.concatenate([self._ids, flat])
        self._starts = np.concatenate([self._starts, starts])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._characters += sum(map(len, words))
        words.clear()
