"""Near-duplicates by MinHash and locality-sensitive hashing: pairs of records whose shingles have a high Jaccard index.

The signature of a set of shingles is its minimum under each of many permutations; two signatures agree in a share of their
entries that estimates the Jaccard index (Broder 1997, "On the resemblance and containment of documents"). Bands of `rows`
entries that are equal make a pair of records a candidate, which a pair of index J becomes with probability
1 - (1 - J^rows)^bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4). Every candidate is then
checked by the exact index of its shingles.

What is kept of each part of a corpus, in files beside it (D records, in blocks of `BLOCK`):

    PART.bands      uint64 (bands, block) each    hash of each band, all records of a block side by side
    PART.sketch     uint8 (D, SKETCH)             the low byte of the first minima: a rough estimate of any pair
    PART.counts     uint32 (D,)                   shingles of each record, with repetitions
    PART.shingles   uint32 (sum of counts,)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import numpy as np
from numpy.typing import NDArray

from llmctl.data.cleaning.shingles import Shingler

PERMUTATIONS: Final = 128
MISSED: Final = 0.005
"""Largest probability that a pair whose index is the threshold is no candidate."""
BLOCK: Final = 4096
"""Records whose bands are side by side."""
SKETCH: Final = 64
MARGIN: Final = 0.15
"""A candidate whose rough estimate is lower than the threshold by more than this (3 standard errors) is not checked."""
FILES: Final = ("bands", "sketch", "counts", "shingles")
"""What is kept of a part."""
LEADERS: Final = 8
"""Most records of one bucket that its other records are compared with."""
AT_ONCE: Final = 1 << 16
"""Shingles that are permuted together: they and their hashes stay in the processor's cache."""
CHECKED_AT_ONCE: Final = 1 << 22
"""Shingles in memory while candidates are checked."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bands:
    """How signatures are cut: `rows` entries in each of `bands`."""

    bands: int
    rows: int

    @classmethod
    def of(cls, threshold: float) -> Self:
        """The longest bands that miss a pair at the threshold with probability `MISSED` at most."""
        fitting = [
            rows for rows in range(1, PERMUTATIONS + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED
        ]
        rows = max(fitting, default=1)
        return cls(PERMUTATIONS // rows, rows)


class Signer:
    """Computes the signatures of texts."""

    def __init__(self, threshold: float, size: int) -> None:
        """`size`: words, or characters in scripts without spaces, in a shingle."""
        self.bands = Bands.of(threshold)
        self._shingler = Shingler(size)
        # x -> (x ^ b) a mod 2^32 with odd a is a permutation of the hashes.
        rng = np.random.Generator(np.random.PCG64(0x11C))
        self._factors = rng.integers(0, 1 << 31, PERMUTATIONS, np.uint32) * np.uint32(2) + np.uint32(1)
        self._masks = rng.integers(0, 1 << 32, PERMUTATIONS, np.uint32)
        self._mixers = rng.integers(0, 1 << 63, PERMUTATIONS, np.uint64) * np.uint64(2) + np.uint64(1)

    def shingles(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], Indices]:
        return self._shingler.shingles(texts)

    def minima(self, shingles: NDArray[np.uint32], counts: Indices) -> NDArray[np.uint32]:
        """(PERMUTATIONS, T) the signatures of T sets, from (N,) shingles and the number (T,) in each. The signature of an
        empty set is zero."""
        found = np.zeros((PERMUTATIONS, len(counts)), np.uint32)
        filled = np.flatnonzero(counts)
        ends = np.cumsum(counts[filled])
        first = 0
        while first < len(filled):
            start = int(ends[first] - counts[filled[first]])
            last = max(first + 1, int(np.searchsorted(ends, start + AT_ONCE, "right")))
            part = shingles[start : int(ends[last - 1])]
            begins = ends[first:last] - counts[filled[first:last]] - start
            mixed, low = np.empty_like(part), np.empty(last - first, np.uint32)
            for number in range(PERMUTATIONS):
                np.bitwise_xor(part, self._masks[number], out=mixed)
                np.multiply(mixed, self._factors[number], out=mixed)
                np.minimum.reduceat(mixed, begins, out=low)
                found[number, filled[first:last]] = low
            first = last
        return found

    def band_hashes(self, minima: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """(bands, T) a hash of each band of the signatures (PERMUTATIONS, T)."""
        bands, rows = self.bands.bands, self.bands.rows
        used = minima[: bands * rows].astype(np.uint64) * self._mixers[: bands * rows, None]
        sums: NDArray[np.uint64] = used.reshape(bands, rows, -1).sum(axis=1, dtype=np.uint64)
        return sums ^ (sums >> np.uint64(32))


class NearWriter:
    """Writes what finding near-duplicates needs of each record of a part."""

    def __init__(self, part: Path, signer: Signer) -> None:
        """`part`: the path of its files, without their endings."""
        self._signer = signer
        self._waiting: list[str] = []
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {
            name: self._stack.enter_context(named(part, name).open("xb")) for name in FILES
        }

    def add(self, text: str) -> None:
        """Add the next record."""
        self._waiting.append(text)
        if len(self._waiting) == BLOCK:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None and self._waiting:
                self._flush()

    def _flush(self) -> None:
        shingles, counts = self._signer.shingles(self._waiting)
        minima = self._signer.minima(shingles, counts)
        for name, array in (
            ("bands", self._signer.band_hashes(minima)),
            ("sketch", (minima[:SKETCH] & np.uint32(0xFF)).astype(np.uint8).T),
            ("counts", counts.astype(np.uint32)),
            ("shingles", shingles),
        ):
            self._files[name].write(np.ascontiguousarray(array).data)
        self._waiting = []


def named(part: Path, name: str) -> Path:
    return part.with_name(f"{part.name}.{name}")


class NearReader:
    """What the writers kept of all parts: R records in the order of the parts."""

    def __init__(self, parts: Sequence[Path], bands: Bands) -> None:
        self._parts, self._bands = parts, bands
        counts = [np.fromfile(named(part, "counts"), np.uint32) for part in parts]
        self.counts = np.concatenate(counts) if counts else np.zeros(0, np.uint32)
        self.firsts = np.cumsum([0, *map(len, counts)])
        """(parts + 1,) index of the first record of each part, and R"""
        self._starts = np.zeros(len(self.counts), np.int64)
        """(R,) where the shingles of each record start in the file of its part"""
        for number in range(len(parts)):
            own = slice(self.firsts[number], self.firsts[number + 1])
            self._starts[own] = np.cumsum(self.counts[own], dtype=np.int64) - self.counts[own]

    def band(self, number: int) -> NDArray[np.uint64]:
        """(R,) the hash of one band of every record."""
        found = np.empty(len(self.counts), np.uint64)
        for part, first, end in zip(self._parts, self.firsts, self.firsts[1:], strict=False):
            with named(part, "bands").open("rb") as file:
                for start in range(first, end, BLOCK):
                    size = min(BLOCK, end - start)
                    file.seek(8 * ((start - first) * self._bands.bands + number * size))
                    found[start : start + size] = np.fromfile(file, np.uint64, size)
        return found

    def sketches(self) -> NDArray[np.uint8]:
        """(R, SKETCH)"""
        found = [np.fromfile(named(part, "sketch"), np.uint8).reshape(-1, SKETCH) for part in self._parts]
        return np.concatenate(found) if found else np.zeros((0, SKETCH), np.uint8)

    def shingles(self, records: Indices) -> NDArray[np.uint32]:
        """(N,) the shingles of these records, one after the other; the records are in ascending order."""
        found = np.empty(int(self.counts[records].sum(dtype=np.int64)), np.uint32)
        filled = 0
        owners = np.searchsorted(self.firsts, records, "right") - 1
        for number in np.unique(owners).tolist():
            descriptor = os.open(named(self._parts[number], "shingles"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                for record in records[owners == number].tolist():
                    count = int(self.counts[record])
                    data = os.pread(descriptor, 4 * count, 4 * int(self._starts[record]))
                    found[filled : filled + count] = np.frombuffer(data, np.uint32)
                    filled += count
            finally:
                os.close(descriptor)
        return found


def clusters(reader: NearReader, ranks: Indices, threshold: float, bands: Bands) -> Indices:
    """(R,) the smallest rank of each record's cluster: the records that pairs with a Jaccard index of at least `threshold`
    connect to it. -1 where `ranks` (R,) is -1, for records that are left out.

    Ranks are 0, 1, … in an order that follows from the contents, so the result does not depend on the order of records.
    """
    members = np.flatnonzero((ranks >= 0) & (reader.counts > 0))
    members = members[np.argsort(ranks[members], kind="stable")]  # (M,) records by rank
    roots = np.arange(len(members))  # (M,) position of the first of each one's cluster
    sketches = reader.sketches()[members]
    for number in range(bands.bands):
        hashes = reader.band(number)[members]
        for leaders, others in _buckets(hashes, roots):
            near = _near(reader, members, sketches, leaders, others, threshold)
            _join(roots, leaders[near], others[near])
    found = np.where(ranks >= 0, ranks, -1)
    found[members] = ranks[members[roots]]
    return found


def _buckets(hashes: NDArray[np.uint64], roots: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of positions with equal hashes to compare: the first of each bucket with the others, then, of those that are
    not in its cluster by now, again the first with the others."""
    order = np.argsort(hashes, kind="stable")
    for _ in range(LEADERS):
        same = hashes[order][1:] == hashes[order][:-1]
        begins = np.flatnonzero(np.concatenate(([True], ~same)))
        leader = order[np.repeat(begins, np.diff(np.append(begins, len(order))))]
        apart = roots[leader] != roots[order]
        if not apart.any():
            return
        yield leader[apart], order[apart]
        order = order[roots[leader] != roots[order]]


def _near(
    reader: NearReader,
    members: Indices,
    sketches: NDArray[np.uint8],
    leaders: Indices,
    others: Indices,
    threshold: float,
) -> NDArray[np.bool_]:
    """(P,) whether each pair of positions has at least that Jaccard index."""
    near = np.zeros(len(leaders), bool)
    for start in range(0, len(leaders), 1 << 16):
        part = slice(start, start + (1 << 16))
        equal = (sketches[leaders[part]] == sketches[others[part]]).mean(axis=1)
        near[part] = equal >= threshold - MARGIN
    chosen = np.flatnonzero(near)
    ends = np.cumsum(reader.counts[members[others[chosen]]].astype(np.int64) + reader.counts[members[leaders[chosen]]])
    first = 0
    while first < len(chosen):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + CHECKED_AT_ONCE, "right")))
        some = chosen[first:last]
        near[some] = jaccard(reader, members[leaders[some]], members[others[some]]) >= threshold
        first = last
    return near


def jaccard(reader: NearReader, ones: Indices, others: Indices) -> NDArray[np.float64]:
    """(P,) the exact Jaccard index of the shingles of each pair of records."""
    if not len(ones):
        return np.zeros(0)
    records, places = np.unique(np.concatenate([ones, others]), return_inverse=True)
    left, right = places[: len(ones)], places[len(ones) :]
    owners = np.repeat(np.arange(len(records), dtype=np.uint64), reader.counts[records])
    keys = (owners << np.uint64(32)) | reader.shingles(records)
    keys.sort()
    keys = keys[np.append(True, keys[1:] != keys[:-1])]  # by record and, within it, by shingle, each once
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(records))
    firsts = np.cumsum(sizes) - sizes
    small, large = np.where(sizes[left] <= sizes[right], (left, right), (right, left))
    pairs = np.repeat(np.arange(len(ones)), sizes[small])
    at = np.arange(len(pairs)) + np.repeat(firsts[small] - (np.cumsum(sizes[small]) - sizes[small]), sizes[small])
    wanted = (large[pairs].astype(np.uint64) << np.uint64(32)) | (keys[at] & np.uint64(0xFFFFFFFF))
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    both = np.bincount(pairs[keys[found] == wanted], minlength=len(ones))
    index: NDArray[np.float64] = both / np.maximum(sizes[left] + sizes[right] - both, 1)
    return index


def _join(roots: Indices, ones: Indices, others: Indices) -> None:
    """Join the clusters of pairs of positions: the first position of a cluster is its root (Tarjan 1975)."""
    parents: dict[int, int] = {}

    def root(of: int) -> int:
        path = []
        while (parent := parents.get(of, of)) != of:
            path.append(of)
            of = parent
        for each in path:
            parents[each] = of
        return of

    for one, other in zip(roots[ones].tolist(), roots[others].tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        if low != high:
            parents[high] = low
    if parents:
        moved = np.fromiter(parents, np.int64, len(parents))
        target = np.array([root(each) for each in moved.tolist()], np.int64)
        to = np.arange(len(roots))
        to[moved] = target
        roots[:] = to[roots]
