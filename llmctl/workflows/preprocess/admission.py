"""Which candidates stay: what depends on several records, and the counts of those that stay."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmctl.data.cleaning.candidates import DROPPED, KEPT, Candidates, Disposition
from llmctl.data.cleaning.judge import DroppedRecord, text_of
from llmctl.data.cleaning.near import PERMUTATIONS, Bands, NearReader, clusters, jaccard
from llmctl.data.spec import SPLITS
from llmctl.data.storing.text import keep, open_file, read_rows, shard, shards
from llmctl.data.workers import Executor
from llmctl.types import Record
from llmctl.workflows.preprocess.bad_records import BadRecords, same_id, same_ids
from llmctl.workflows.preprocess.outcome import SAMPLES, TEXT, ReadResult, place_of
from llmctl.workflows.preprocess.spec import PreprocessConfig

SAME_IDS_SHOWN: Final = 5
TRAIN: Final = SPLITS.index("train")


@dataclass(slots=True)
class Tally:
    """Counts of the candidates that stay."""

    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    characters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    labels: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    cleaned: Counter[str] = field(default_factory=Counter)
    """Records that each rule of cleaning changed."""
    found: Counter[str] = field(default_factory=Counter)
    """Records in which a filter found something, by its name, and counts of what."""


class Admission:
    """Decides about the candidates of all parts that were read."""

    def __init__(
        self, config: PreprocessConfig, folder: Path, scratch: Path, read: ReadResult, *, by_files: bool
    ) -> None:
        """`by_files`: the names of the files assign records to splits."""
        self._config, self._folder, self._scratch = config, folder, scratch
        self._read, self._by_files = read, by_files
        self._parts = len(read.labels)
        self.candidates = Candidates([place_of(scratch, "candidates", part) for part in range(self._parts)], scratch)
        self.near: dict[str, float] = {}
        """How near-duplicates were looked for, and what was found."""
        self._why: dict[int, str] = {}
        """For some of those dropped: what they are near to."""

    def decide(self) -> None:
        """Find the outcome of every candidate. Raises `DataError` for ids used for different content, unless
        `on_bad_record` says otherwise."""
        dedup, candidates = self._config.dedup, self.candidates
        near = dedup.near is not None
        candidates.find_duplicates(drop=dedup.exact, keep_held_out=self._by_files, leakage=near and self._by_files)
        candidates.find_same_ids()
        self._account_same_ids()
        if near:
            self._find_near()
        for outcome in DROPPED:
            self._account(outcome)

    def places(self, outcome: Disposition) -> Iterator[list[int]]:
        """Indices of the candidates with that outcome, part by part."""
        for part in range(self._parts):
            own = np.flatnonzero(self.candidates.outcomes_of(part) == outcome)
            if len(own):
                yield (self.candidates.firsts[part] + own).tolist()

    def _account_same_ids(self) -> None:
        policy, places = self._config.on_bad_record, self.places(Disposition.SAME_ID)
        if policy == "fail":
            if first := list(islice(chain.from_iterable(places), SAME_IDS_SHOWN)):
                raise same_ids([record for _, record in self.records(first)])
        elif policy == "skip":
            if count := sum(map(len, places)):
                self._read.dropped["bad_record"] += count
        else:
            with BadRecords(policy, place_of(self._scratch, "rejects", self._parts), self._read.dropped) as bad:
                for each in places:
                    for _, record in self.records(each):
                        bad.add(same_id(record), record)
            self._read.rejected += bad.rejected

    def _account(self, outcome: Disposition) -> None:
        reason, first, count = outcome.name.lower(), list[int](), 0
        for places in self.places(outcome):
            first += places[: SAMPLES - len(first)]
            count += len(places)
        if not count:
            return
        self._read.dropped[reason] += count
        for place, record in self.records(first):
            self._read.keep_sample(
                DroppedRecord(reason, self._why.get(place, ""), text_of(record.fields), record.origin)
            )

    def _find_near(self) -> None:
        """Of a cluster the record with the smallest hash stays; where files name the splits, one that is held out."""
        threshold = self._config.dedup.near
        assert threshold is not None
        bands = Bands.of(threshold)
        reader = NearReader([place_of(self._scratch, "near", part) for part in range(self._parts)], bands)
        ranks = self.candidates.ranks()
        roots = clusters(reader, ranks, threshold, bands)
        alive = np.flatnonzero(ranks >= 0)
        rank, root = ranks[alive], roots[alive]
        held = (self.candidates.splits()[alive] != TRAIN) & self._by_files
        stays = np.full(len(alive), len(alive), np.int64)  # by root: the rank of the record that stays
        np.minimum.at(stays, root[held], rank[held])
        led = stays[root] < len(alive)  # by a record that is held out
        stays = np.where(stays < len(alive), stays, np.arange(len(alive)))
        dropped = (rank != stays[root]) | (led & ~held)
        leaked = led & ~held
        self.candidates.outcomes[alive[dropped & ~leaked]] = Disposition.NEAR_DUPLICATE
        self.candidates.outcomes[alive[leaked]] = Disposition.LEAKAGE
        sizes = np.bincount(root, minlength=1)
        self.near = {
            "threshold": threshold,
            "shingle": self._config.dedup.shingle,
            "permutations": PERMUTATIONS,
            "bands": bands.bands,
            "rows": bands.rows,
            "clusters": int((sizes > 1).sum()),
            "largest": int(sizes.max(initial=0)),
        }
        by_rank = np.empty(len(alive), np.int64)
        by_rank[rank] = alive
        for chosen in (dropped & ~leaked, leaked):
            some = np.flatnonzero(chosen)[:SAMPLES]
            kept = by_rank[stays[root[some]]]
            index = jaccard(reader, alive[some], kept)
            origins = {place: record.origin for place, record in self.records(sorted(set(map(int, kept))))}
            for place, other, value in zip(alive[some], kept, index, strict=True):
                self._why[int(place)] = f"Jaccard index {value:.2f} with {origins[int(other)]}"

    def records(self, places: Sequence[int]) -> Iterator[tuple[int, Record]]:
        """The candidates at these indices, which ascend."""
        rest = list(places)
        firsts = self.candidates.firsts
        for part in range(self._parts):
            own = [place for place in rest if place < firsts[part + 1]]
            rest = rest[len(own) :]
            if not own:
                continue
            splits = self._splits_of(part)
            found: dict[int, Record] = {}
            for split in SPLITS:
                members = firsts[part] + np.flatnonzero(splits == SPLITS.index(split))
                wanted = np.searchsorted(
                    members, [place for place in own if splits[place - firsts[part]] == SPLITS.index(split)]
                )
                rows = wanted.tolist()
                for row, record in zip(rows, read_rows([shard(self._scratch / TEXT, split, part)], rows), strict=True):
                    found[int(members[row])] = record
            yield from ((place, found[place]) for place in own)

    def _splits_of(self, part: int) -> NDArray[np.uint8]:
        blocks = [block["split"] for _, _, block in self.candidates.rows(part)]
        return np.concatenate([*blocks, np.zeros(0, np.uint8)])

    # -----------------------------------------------------------------------------------------------------------

    def apply(self, executor: Executor) -> Tally:
        """Write the text of those that stay, number its files, and count."""
        tally = Tally()
        (self._folder / TEXT).mkdir()
        for _ in executor.map(_keep, self._keep_jobs()):
            pass
        self._count(tally)
        _number(self._folder / TEXT)
        return tally

    def _keep_jobs(self) -> Iterator[_KeepJob]:
        """What to write of each file of text that loses records. Links the others."""
        for part in range(self._parts):
            stay = np.isin(self.candidates.outcomes_of(part), KEPT)
            splits = self._splits_of(part)
            for number, split in enumerate(SPLITS):
                mine = stay[splits == number]
                source, out = (shard(folder / TEXT, split, part) for folder in (self._scratch, self._folder))
                if not mine.all():
                    yield _KeepJob(source, out, np.packbits(mine), len(mine))
                elif len(mine):
                    _link(source, out)

    def _count(self, tally: Tally) -> None:
        labels = [Counter[int]() for _ in range(3 * self._parts)]
        marks = [Counter[int]() for _ in range(self._parts)]
        for part, first, block in self.candidates.rows():
            block = block[np.isin(self.candidates.outcomes[first : first + len(block)], KEPT)]
            marks[part].update(_counted(block["mark"]))
            for number, split in enumerate(SPLITS):
                mine = block[block["split"] == number]
                tally.splits[split] += len(mine)
                tally.characters[split] += int(mine["characters"].sum(dtype=np.int64))
                labels[3 * part + number].update(_counted(mine["label"]))
        for part in range(self._parts):
            for mark, number in self._read.marks[part].items():
                times = marks[part][number]
                tally.cleaned.update(dict.fromkeys(mark[0], times))
                tally.found.update({name: times * count for name, count in mark[1]})
            for label, number in self._read.labels[part].items():
                for place, split in enumerate(SPLITS):
                    if times := labels[3 * part + place][number]:
                        tally.labels[split][label] += times
        tally.cleaned, tally.found = +tally.cleaned, +tally.found


def _counted(numbers: NDArray[Any]) -> dict[int, int]:
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _KeepJob:
    path: Path
    out: Path
    bits: NDArray[np.uint8]
    rows: int


def _keep(job: _KeepJob) -> None:
    """Write a file of text without some of its records; none if no record is left."""
    kept = np.unpackbits(job.bits, count=job.rows).astype(bool)
    if kept.any():
        keep(job.path, kept, job.out)


def _link(path: Path, out: Path) -> None:
    """The same file under another name, or a copy where the file system has no such links."""
    try:
        os.link(path, out)
    except OSError:
        shutil.copyfile(path, out)


def _number(folder: Path) -> None:
    """Number the files of each split from 0; a split without records gets an empty one."""
    schema = None
    for split in SPLITS:
        for number, path in enumerate(shards(folder, split)):
            path.rename(shard(folder, split, number))
            schema = pq.read_schema(shard(folder, split, number)) if schema is None else schema
    for split in SPLITS:
        if schema is not None and not shards(folder, split):
            open_file(shard(folder, split, 0), schema).close()
