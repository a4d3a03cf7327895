"""Selects records: cleans each and decides by its content whether to keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmctl.data.clean import Cleaner
from llmctl.data.encode import Segmenting
from llmctl.data.formats import Bad
from llmctl.data.spec import Clean, Dedup, Splits
from llmctl.data.split import Deduplicator, content_hash, split_of
from llmctl.errors import DataError
from llmctl.types import Record


class KeptRecord(NamedTuple):
    """A cleaned record that is kept."""

    record: Record
    split: str
    characters: int
    label: str | None


@dataclass(frozen=True, slots=True)
class DroppedRecord:
    """A record that is dropped; `reason` is `empty`, `too_short` or `duplicate`."""

    reason: str


class ConflictingId(DataError):
    """Two records have the same id and different content."""


class RecordFilter:
    """Cleans records one by one and decides which to keep; remembers ids and contents for deduplication."""

    def __init__(self, task: Segmenting, columns: Sequence[str], clean: Clean, dedup: Dedup, splits: Splits) -> None:
        self.cleaner = Cleaner(clean)
        self._task = task
        self._columns = columns
        self._min_chars = clean.min_chars
        self._dedup = dedup
        self._splits = splits
        self._deduplicator = Deduplicator()

    def apply(self, record: Record | Bad) -> KeptRecord | DroppedRecord:
        """Clean a record and keep or drop it.

        Raises `DataError` for a bad row or one that the task cannot read, `ConflictingId` for an id seen with other content.
        """
        if isinstance(record, Bad):
            raise record.error
        fields = {name: self._clean(name, record.fields.get(name)) for name in self._columns}
        clean = Record(record.id, fields, record.origin)
        segments = self._task.segments(clean)
        # A conversation may start with an empty system message.
        if any(not part.text or part.text.isspace() for part in segments if part.role != "system"):
            return DroppedRecord("empty")
        if any(len(part.text) < self._min_chars for part in segments if part.role not in ("system", "label")):
            return DroppedRecord("too_short")
        digest = content_hash(fields, self._columns)
        if self._deduplicator.content(digest) and self._dedup.exact:
            return DroppedRecord("duplicate")
        if not record.id:
            clean = Record(digest[:8].hex(), fields, record.origin)
        elif self._deduplicator.conflict(record.id, digest):
            raise ConflictingId(
                f"another record with different content has the id {record.id!r}",
                where=f"{record.origin}:id",
                hint="make ids unique, drop the column (ids are then derived from the content), or use "
                "--on-bad-record skip to keep the first record of each id",
            )
        label = next((part.text for part in segments if part.role == "label"), None)
        return KeptRecord(clean, split_of(digest, self._splits), sum(len(part.text) for part in segments), label)

    def _clean(self, name: str, value: Any) -> Any:
        if self._task.labelled and name == self._task.answer_role:
            return value.strip() if isinstance(value, str) else value
        cleaned = self.cleaner.value(value)
        if isinstance(cleaned, list):
            return [_message(each) if isinstance(each, Mapping) else each for each in cleaned]
        return cleaned


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The role and content of a message, without any other keys."""
    return {name: message.get(name) for name in ("role", "content")}
