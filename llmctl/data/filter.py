"""Selects records: of those that are candidates by their content, the ones that repeat no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from llmctl.data.encode import Segmenting
from llmctl.data.filters.spec import Filter
from llmctl.data.formats import Bad
from llmctl.data.judge import Admissible, DroppedRecord, Judge
from llmctl.data.spec import Clean, Dedup, Splits
from llmctl.data.split import CONTRADICTORY, IN_SEVERAL_SPLITS, SEVERAL_ANSWERS, Deduplicator
from llmctl.errors import DataError
from llmctl.types import Record


class KeptRecord(NamedTuple):
    """A cleaned record that is kept."""

    record: Record
    split: str
    characters: int
    label: str | None


class ConflictingId(DataError):
    """Two records have the same id and different content."""


class RecordFilter:
    """Judges records one by one and remembers ids and contents, to drop duplicates."""

    def __init__(
        self,
        task: Segmenting,
        columns: Sequence[str],
        clean: Clean,
        dedup: Dedup,
        splits: Splits,
        *,
        asked: Sequence[str] | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        """See `Judge`."""
        self.judge = Judge(task, columns, clean, splits, asked=asked, filters=filters)
        self.cleaned: Counter[str] = Counter()
        """Records that each rule of cleaning changed."""
        self.inputs: Counter[str] = Counter()
        """Records whose input was seen before, by the names in `split.py`."""
        self.found: Counter[str] = Counter()
        """Kept records in which a filter found something, by its name, and counts of what."""
        self._labelled = task.labelled
        self._dedup = dedup
        self._deduplicator = Deduplicator()
        self._seen: dict[bytes, str] = {}
        """Hash of an input -> the split of its first record."""

    def apply(self, record: Record | Bad, split: str | None = None) -> KeptRecord | DroppedRecord:
        """Judge a record and admit it, see `Judge.judge` and `admit`."""
        found = self.judge.judge(record, split)
        return found if isinstance(found, DroppedRecord) else self.admit(found)

    def admit(self, candidate: Admissible) -> KeptRecord | DroppedRecord:
        """Keep a candidate unless it repeats an earlier one. Raises `ConflictingId` for an id seen with other content."""
        record, digest = candidate.record, candidate.digest
        repeated = self._deduplicator.content(digest)
        if repeated and self._dedup.exact:
            return DroppedRecord("duplicate", text=candidate.text(), origin=record.origin)
        if not record.id:
            record = Record(digest[:8].hex(), record.fields, record.origin)
        elif self._deduplicator.conflict(record.id, digest):
            raise ConflictingId(
                f"another record with different content has the id {record.id!r}",
                where=f"{record.origin}:id",
                hint="make ids unique, drop the column (ids are then derived from the content), or use "
                "--on-bad-record skip to keep the first record of each id",
            )
        self.cleaned.update(candidate.cleaned)
        for verdict in candidate.found:
            self.found[verdict.reason] += 1
            self.found.update(verdict.counts)
        if candidate.question != digest and not repeated:
            self._count_input(candidate.question, candidate.split)
        return KeptRecord(record, candidate.split, candidate.characters, candidate.label)

    @property
    def distinct_inputs(self) -> int:
        """Number of different inputs kept; 0 for a task whose whole record is its input."""
        return len(self._seen)

    def _count_input(self, question: bytes, split: str) -> None:
        before = self._seen.get(question)
        if before is None:
            self._seen[question] = split
            return
        self.inputs[CONTRADICTORY if self._labelled else SEVERAL_ANSWERS] += 1
        self.inputs[IN_SEVERAL_SPLITS] += before != split
