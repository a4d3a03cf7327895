"""Candidates of all parts of a corpus in files of fixed rows, and which of them repeat another one.

The judge (`judge.py`) says of each record alone whether it is a candidate. What depends on other records (the same content,
the same id, the same question, a nearly equal text) is found here from hashes, in memory that does not grow with the number
of records: rows are first distributed to files by ranges of the hash, so that equal ones meet in one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from llmctl.data.cleaning.filters.spec import Verdict
from llmctl.data.cleaning.judge import Admissible
from llmctl.data.cleaning.split import CONTRADICTORY, IN_SEVERAL_SPLITS, SEVERAL_ANSWERS, id_hash
from llmctl.data.spec import SPLITS

Rows = NDArray[Any]
Wanted = Callable[[Rows, NDArray[np.uint8]], NDArray[np.bool_]]

HASH: Final = ("<u8", 2)
ROW: Final = np.dtype(
    [
        ("digest", *HASH),
        ("question", *HASH),
        ("id", *HASH),
        ("characters", "<u4"),
        ("label", "<i4"),
        ("mark", "<u4"),
        ("split", "u1"),
    ]
)
"""A candidate: hashes of its content, of what it asks and of its id (0 if it has none); index of its split in `SPLITS`, of
its label and of its marks in the tables of its part."""
KEYED: Final = np.dtype([("key", *HASH), ("digest", *HASH), ("index", "<i8"), ("split", "u1")])
_NO_ID: Final = bytes(16)
AT_ONCE: Final = 1 << 16
"""Rows that are read at once."""
HELD: Final = 1 << 12
"""Rows that wait to be written, as objects of some hundred bytes."""
IN_MEMORY: Final = 1 << 18
"""Rows that are compared in memory, 41 bytes each."""
MOST_RANGES: Final = 512


class Disposition(IntEnum):
    """What becomes of a candidate."""

    KEPT = 0
    REPEATED = 1
    """Kept, though it has the content of an earlier one."""
    DUPLICATE = 2
    NEAR_DUPLICATE = 3
    LEAKAGE = 4
    SAME_ID = 5
    """It has the id of an earlier one with other content."""


KEPT: Final = (Disposition.KEPT, Disposition.REPEATED)
DROPPED: Final = (Disposition.DUPLICATE, Disposition.NEAR_DUPLICATE, Disposition.LEAKAGE)


class CandidateWriter:
    """Writes the candidates of a part."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("xb")
        self._rows: list[tuple[bytes, bytes, bytes, int, int, int, int]] = []
        """The values of `ROW`."""
        self.labels: dict[str, int] = {}
        self.marks: dict[tuple[tuple[str, ...], tuple[tuple[str, int], ...]], int] = {}
        """The rules of cleaning that changed a record and the counts of what filters found in it -> their number."""

    def add(self, candidate: Admissible, *, given_id: bool) -> None:
        """Add the next candidate. `given_id`: its id is its own and not derived from its content."""
        record, digest, question, split, characters, label, cleaned, found = candidate
        mark = (cleaned, _counts(found) if found else ())
        self._rows.append(
            (
                digest,
                question,
                id_hash(record.id) if given_id else _NO_ID,
                characters,
                -1 if label is None else self.labels.setdefault(label, len(self.labels)),
                self.marks.setdefault(mark, len(self.marks)),
                SPLITS.index(split),
            )
        )
        if len(self._rows) == HELD:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._flush()

    def _flush(self) -> None:
        rows = np.empty(len(self._rows), ROW)
        for name, values in zip(ROW.names or (), zip(*self._rows, strict=True), strict=False):
            # Big-endian, so that the order of numbers is that of the hashes.
            hashed = ROW[name].subdtype is not None
            rows[name] = np.frombuffer(b"".join(values), ">u8").reshape(-1, 2) if hashed else values
        self._rows.clear()
        self._file.write(rows.tobytes())


def _counts(found: Sequence[Verdict]) -> tuple[tuple[str, int], ...]:
    counts = Counter(verdict.reason for verdict in found)
    for verdict in found:
        counts.update(verdict.counts)
    return tuple(sorted(counts.items()))


class Candidates:
    """The candidates of all parts, in order, and the outcome of each."""

    def __init__(self, paths: Sequence[Path], scratch: Path) -> None:
        """`scratch`: a folder for more files."""
        self._paths, self._scratch = paths, scratch
        counts = [path.stat().st_size // ROW.itemsize for path in paths]
        self.firsts = np.cumsum([0, *counts])
        """(parts + 1,) index of the first candidate of each part, and R"""
        self.outcomes: NDArray[np.uint8] = np.zeros(0, np.uint8)
        """(R,) `Disposition`; a file, so that memory does not grow with R"""
        if len(self):
            self.outcomes = np.memmap(scratch / "outcomes", np.uint8, "w+", shape=(len(self),))

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def rows(self, only: int | None = None) -> Iterator[tuple[int, int, Rows]]:
        """Part, index of the first and rows of each block of candidates, of all parts or `only` one."""
        for part, path in enumerate(self._paths):
            if only not in (None, part):
                continue
            first = int(self.firsts[part])
            with path.open("rb") as file:
                while len(block := np.fromfile(file, ROW, AT_ONCE)):
                    yield part, first, block
                    first += len(block)

    def outcomes_of(self, part: int) -> NDArray[np.uint8]:
        return self.outcomes[self.firsts[part] : self.firsts[part + 1]]

    # -----------------------------------------------------------------------------------------------------------

    def find_duplicates(self, *, drop: bool, keep_held_out: bool, leakage: bool) -> None:
        """Mark every candidate with the content of another one but the first.

        `drop`: as a duplicate, else as repeated. `keep_held_out`: the first that is not in the train split stays, if there
        is one; `leakage`: those of the train split are then marked as such.
        """
        for rows in self._by_hash("digest", lambda rows, outcomes: np.ones(len(rows), bool)):
            later = rows["split"] == SPLITS.index("train") if keep_held_out else np.zeros(len(rows), bool)
            order, firsts = _groups(rows, later)
            others = np.ones(len(rows), bool)
            others[firsts] = False
            marks = np.full(len(rows), Disposition.DUPLICATE if drop else Disposition.REPEATED, np.uint8)
            if leakage and drop:
                first = order[np.repeat(firsts, np.diff(np.append(firsts, len(rows))))]
                marks[later[order] & ~later[first]] = Disposition.LEAKAGE
            self.outcomes[rows["index"][order[others]]] = marks[others]

    def find_same_ids(self) -> None:
        """Mark every kept candidate with the id of an earlier one and other content."""
        for rows in self._by_hash("id", lambda rows, outcomes: rows["id"].any(axis=1) & np.isin(outcomes, KEPT)):
            order, firsts = _groups(rows)
            first = order[np.repeat(firsts, np.diff(np.append(firsts, len(rows))))]
            other = (rows["digest"][order] != rows["digest"][first]).any(axis=1)
            self.outcomes[rows["index"][order[other]]] = Disposition.SAME_ID

    def count_questions(self, *, labelled: bool) -> tuple[int, Counter[str]]:
        """The number of different questions, and counts of the kept candidates whose question an earlier one has. Both are
        empty where the whole record is the question."""
        distinct, found = 0, Counter[str]()
        asked: Wanted = lambda rows, outcomes: (  # noqa: E731
            (rows["question"] != rows["digest"]).any(axis=1) & (outcomes == Disposition.KEPT)
        )
        for rows in self._by_hash("question", asked):
            order, firsts = _groups(rows)
            split = rows["split"][order]
            first = np.repeat(split[firsts], np.diff(np.append(firsts, len(rows))))
            distinct += len(firsts)
            found[CONTRADICTORY if labelled else SEVERAL_ANSWERS] += len(rows) - len(firsts)
            found[IN_SEVERAL_SPLITS] += int((split != first).sum())
        return distinct, +found

    def ranks(self) -> NDArray[np.int64]:
        """(R,) the place of each kept candidate in the order of the hashes of contents; -1 of others."""
        digests = np.empty(len(self), np.uint64)
        for _, first, block in self.rows():
            digests[first : first + len(block)] = block["digest"][:, 0]
        kept = np.flatnonzero(np.isin(self.outcomes, KEPT))
        found = np.full(len(self), -1, np.int64)
        found[kept[np.argsort(digests[kept], kind="stable")]] = np.arange(len(kept))
        return found

    def splits(self) -> NDArray[np.uint8]:
        """(R,) index of the split of each candidate."""
        found = np.empty(len(self), np.uint8)
        for _, first, block in self.rows():
            found[first : first + len(block)] = block["split"]
        return found

    def _by_hash(self, name: str, wanted: Wanted) -> Iterator[Rows]:
        """The wanted candidates with one of their hashes as `key`, in ranges of it; within a range in order."""

        def chosen() -> Iterator[Rows]:
            for _, first, block in self.rows():
                mask = wanted(block, self.outcomes[first : first + len(block)])
                rows = np.empty(int(mask.sum()), KEYED)
                rows["key"], rows["digest"], rows["split"] = (
                    block[name][mask],
                    block["digest"][mask],
                    block["split"][mask],
                )
                rows["index"] = first + np.flatnonzero(mask)
                yield rows

        if len(self) <= IN_MEMORY:
            rows = np.concatenate([*chosen(), np.empty(0, KEYED)])
            if len(rows):
                yield rows
            return
        bits = min((len(self) // IN_MEMORY).bit_length(), MOST_RANGES.bit_length() - 1)
        paths = [self._scratch / f"range-{number}" for number in range(1 << bits)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for rows in chosen():
                ranges = (rows["key"][:, 0] >> np.uint64(64 - bits)).astype(np.int64)
                order = np.argsort(ranges, kind="stable")
                ends = np.searchsorted(ranges[order], np.arange(1, len(files)))
                for file, part in zip(files, np.split(rows[order], ends), strict=True):
                    file.write(part.tobytes())
        for path in paths:
            rows = np.fromfile(path, KEYED)
            path.unlink()
            if len(rows):
                yield rows


def _groups(rows: Rows, later: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order in which rows of one key are neighbours, those that are not `later` first, and where each group starts."""
    keys = rows["key"]
    first_of_all = () if later is None else (later,)
    order = np.lexsort((*first_of_all, keys[:, 1], keys[:, 0]))
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return order, np.flatnonzero(np.append(True, ~same))
