"""Overlap with texts that must not be trained on, such as a benchmark: 13-grams of words, as for GPT-3.

Brown et al. 2020, Language Models are Few-Shot Learners, appendix C: texts in lower case without punctuation, n-grams of
13 words, and of all words of a shorter text if it has at least 8. Here a text that is shorter still counts if it is a
record's whole text. In scripts without blanks between words, a word is a character.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.cleaning.filters.spec import Filter, Passage, Reading, Verdict
from llmctl.data.reading.formats import Bad
from llmctl.data.reading.read import ReadContext, scan
from llmctl.data.reading.sources import find_sources
from llmctl.data.storing.text import read_text
from llmctl.script import units_of
from llmctl.store.prepared import is_prepared, open_prepared

NGRAM: Final = 13
SHORTEST: Final = 8
"""Words of the shortest text that is looked for inside others."""
HELD_OUT: Final = ("test", "validation")
"""The splits of prepared data that must not be trained on."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_INVERSE: Final = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MOST_WORDS: Final = 1 << 20
"""Distinct words whose hashes are kept."""

Hashes = NDArray[np.uint64]


class DecontaminationFilter(Filter):
    """Drops a record that shares an n-gram with one of the named files, prepared folders or data sets.

    Records of a file that is named after validation or test stay: they are what is protected.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._words = _WordHashes()
        held: defaultdict[int, list[Hashes]] = defaultdict(list)
        whole: list[Hashes] = []
        starts: list[Hashes] = []
        for name in names:
            for texts in _records(name):
                codes = [self._words.of(units_of(text)) for text in texts]
                longest = max(map(len, codes), default=0)
                for each in codes:
                    if len(each) >= SHORTEST:
                        size, ngrams = min(NGRAM, len(each)), _Ngrams(each)
                        held[size].append(ngrams.of(size))
                        starts.append(ngrams.of(SHORTEST)[: len(each) - size + 1])
                    elif 0 < len(each) == longest:
                        whole.append(_Ngrams(each).of(len(each)))
        self._held = {size: _HashSet(np.concatenate(each)) for size, each in sorted(held.items(), reverse=True)}
        self._starts = _HashSet(np.concatenate([*starts, np.zeros(0, np.uint64)]))
        """The first words of all that is held: where no such run is found, no longer one has to be looked for."""
        self._whole = frozenset(int(each[0]) for each in whole)

    def judge(self, reading: Reading) -> Verdict | None:
        if reading.held_out:
            return None
        longest = max((len(each.words) for each in reading.passages), default=0)
        for passage in reading.passages:
            count = len(passage.words)
            if not count or (count < SHORTEST and (count < longest or not self._whole)):
                continue
            ngrams_of = _Ngrams(self._words.of(passage.words))
            if count < SHORTEST and int(ngrams_of.of(count)[0]) in self._whole:
                return Verdict("decontaminate", f"the whole text is held out: {passage.text[:80]!r}")
            if count < SHORTEST or not len(self._starts.places(ngrams_of.of(SHORTEST))):
                continue
            for size, held in self._held.items():
                if count < size:
                    continue
                hits = held.places(ngrams_of.of(size))
                if len(hits):
                    return Verdict(
                        "decontaminate", f"{size} words of a held-out text: {_shown(passage, int(hits[0]), size)!r}"
                    )
        return None


def _shown(passage: Passage, start: int, size: int) -> str:
    words = passage.words[start : start + size]
    return ("" if all(len(word) == 1 for word in words) else " ").join(words)


class _WordHashes(dict[str, int]):
    """Word -> 64-bit hash of its lower-case form, the same in every process."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.lower().encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "big")
        if len(self) < _MOST_WORDS:
            self[word] = value
        return value

    def of(self, words: Sequence[str]) -> Hashes:
        return np.fromiter(map(self.__getitem__, words), np.uint64, len(words))


class _HashSet:
    """A sorted array of hashes, behind a table of their first bits that says at once that most others are not in it."""

    def __init__(self, hashes: Hashes) -> None:
        self._sorted = np.unique(hashes)
        bits = min(max(16, (16 * len(self._sorted)).bit_length()), 28)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self._sorted >> self._shift] = True

    def places(self, hashes: Hashes) -> NDArray[np.intp]:
        """The places of those hashes that are in the set."""
        maybe = np.flatnonzero(self._table[hashes >> self._shift])
        if not len(maybe):
            return maybe
        found = hashes[maybe]
        nearest = np.minimum(np.searchsorted(self._sorted, found), len(self._sorted) - 1)
        found_places: NDArray[np.intp] = maybe[self._sorted[nearest] == found]
        return found_places


class _Ngrams:
    """Hashes of the n-grams of a text: polynomials modulo 2^64, all from one running sum."""

    def __init__(self, codes: Hashes) -> None:
        powers, inverses = _powers(len(codes))
        self._sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(codes * powers[: len(codes)], out=self._sums[1:])
        self._inverses = inverses

    def of(self, size: int) -> Hashes:
        """The hash of each run of `size` words, shape (words - size + 1,); empty for a shorter text."""
        found = self._sums[size:] - self._sums[: len(self._sums) - size]
        return found * self._inverses[: len(found)]


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """At least `count` powers, from 0 on, of an odd number, and of its inverse, modulo 2^64."""
    return _powers_to(max(1 << 12, 1 << (count - 1).bit_length()))


@functools.lru_cache(maxsize=32)
def _powers_to(count: int) -> tuple[Hashes, Hashes]:
    one, ones = np.ones(1, np.uint64), np.ones(count - 1, np.uint64)
    made = [np.cumprod(np.concatenate([one, ones * base]), dtype=np.uint64) for base in (_FACTOR, _INVERSE)]
    return made[0], made[1]


def _records(name: str) -> Iterator[list[str]]:
    """The texts of each record. Raises `DataError` for a bad row, and what reading raises."""
    if is_prepared(Path(name)):
        prepared = open_prepared(Path(name))
        for split in HELD_OUT:
            if prepared.manifest.splits.get(split):
                for record in read_text(prepared.text(split)):
                    yield [text for value in record.fields.values() for text in _texts(value)]
        return
    for item in scan(find_sources([name]), ReadContext(fields_of=lambda text: {"text": text}, document="line")):
        if isinstance(item, Bad):
            raise item.error
        yield [text for key, value in item.fields.items() if key != "id" for text in _texts(value)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
