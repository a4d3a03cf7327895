"""Seconds and peak memory (MB) of finding near-duplicates, printed last: `near.py llmctl|datasketch DOCUMENTS en|zh`.

The same made-up documents, shingles, permutations and bands on both sides; datasketch hashes its shingles in one batch a
document, the fastest way that it has, and takes every candidate for a duplicate. Every fifth document is a copy of an earlier one with a few words replaced.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

THRESHOLD = 0.8
SIZE = 3
WORDS = 200
VOCABULARY = 20_000


def documents(count: int, language: str) -> Iterator[list[str]]:
    """Documents of `WORDS` words, or characters, with the frequencies of Zipf's law."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(10, VOCABULARY + 10)
    ends = np.cumsum(weights / weights.sum())
    if language == "zh":
        words = [chr(0x4E00 + number) for number in range(VOCABULARY)]
    else:
        words = [f"w{number:x}" for number in range(VOCABULARY)]
    kept: list[list[str]] = []
    for number in range(count):
        if number % 5 == 4:
            copy = list(kept[int(rng.integers(len(kept)))])
            for place in rng.integers(0, WORDS, 3):
                copy[place] = words[int(rng.integers(VOCABULARY))]
            yield copy
            continue
        made = [words[each] for each in np.searchsorted(ends, rng.random(WORDS)).tolist()]
        if len(kept) < 10_000:
            kept.append(made)
        yield made


def llmctl(texts: list[str]) -> int:
    from llmctl.data.cleaning.near import Bands, NearReader, NearWriter, Signer, clusters

    signer = Signer(THRESHOLD, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        with NearWriter(part, signer) as writer:
            for text in texts:
                writer.add(text)
        ranks = np.arange(len(texts))
        found = clusters(NearReader([part], signer.bands), ranks, THRESHOLD, Bands.of(THRESHOLD))
    return int((found != ranks).sum())


def datasketch(texts: list[str], separator: str) -> int:
    from datasketch import MinHash, MinHashLSH

    from llmctl.data.cleaning.near import Bands

    bands = Bands.of(THRESHOLD)
    used = bands.bands * bands.rows
    index = MinHashLSH(num_perm=used, params=(bands.bands, bands.rows))
    empty = MinHash(num_perm=used)
    dropped = 0
    for number, text in enumerate(texts):
        words = text.split(" ") if separator else list(text)
        shingles = {separator.join(words[at : at + SIZE]).encode() for at in range(len(words) - SIZE + 1)}
        signature = empty.copy()
        signature.update_batch(list(shingles))
        dropped += bool(index.query(signature))
        index.insert(number, signature)
    return dropped


def main(who: str, count: str, language: str) -> None:
    separator = "" if language == "zh" else " "
    texts = [separator.join(words) for words in documents(int(count), language)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    dropped = llmctl(texts) if who == "llmctl" else datasketch(texts, separator)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{who}: {dropped:,} of {len(texts):,} dropped; {before:.0f} MB before, {peak:.0f} MB at most; seconds {seconds:.2f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
