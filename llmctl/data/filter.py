"""Selects records: cleans each and decides by its content whether to keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmctl.data.clean import Cleaner
from llmctl.data.encode import Segmenting
from llmctl.data.formats import Bad
from llmctl.data.spec import Clean, Dedup, Splits
from llmctl.data.split import CONTRADICTORY, IN_SEVERAL_SPLITS, SEVERAL_ANSWERS, Deduplicator, content_hash, split_of
from llmctl.errors import DataError
from llmctl.types import Record, Segment


class KeptRecord(NamedTuple):
    """A cleaned record that is kept."""

    record: Record
    split: str
    characters: int
    label: str | None


@dataclass(frozen=True, slots=True)
class DroppedRecord:
    """A record that is dropped; `reason` is `empty`, `too_short`, `not_in_loss` or `duplicate`."""

    reason: str


class ConflictingId(DataError):
    """Two records have the same id and different content."""


class RecordFilter:
    """Cleans records one by one and decides which to keep; remembers ids and contents for deduplication."""

    def __init__(
        self,
        task: Segmenting,
        columns: Sequence[str],
        clean: Clean,
        dedup: Dedup,
        splits: Splits,
        *,
        asked: Sequence[str] | None = None,
    ) -> None:
        """`columns`: the fields of the task. `asked`: those that ask for the answer; default: all of them."""
        self.cleaner = Cleaner(clean)
        self.cleaned: Counter[str] = Counter()
        """Records that each rule of cleaning changed."""
        self.inputs: Counter[str] = Counter()
        """Records whose input was seen before, by the names in `split.py`."""
        self._task = task
        self._columns = columns
        self._asked = asked
        self._min_chars = clean.min_chars
        self._dedup = dedup
        self._splits = splits
        self._deduplicator = Deduplicator()
        self._seen: dict[bytes, str] = {}
        """Hash of an input -> the split of its first record."""

    def apply(self, record: Record | Bad, split: str | None = None) -> KeptRecord | DroppedRecord:
        """Clean a record and keep or drop it. `split`: the split that its file names; None: it follows from a hash.

        Raises `DataError` for a bad row or one that the task cannot read, `ConflictingId` for an id seen with other content.
        """
        if isinstance(record, Bad):
            raise record.error
        self.cleaner.applied.clear()
        fields = {name: self._clean(name, record.fields.get(name)) for name in self._columns}
        clean = Record(record.id, fields, record.origin)
        segments = self._task.segments(clean)
        # A conversation may start with an empty system message.
        if any(not part.text or part.text.isspace() for part in segments if part.role != "system"):
            return DroppedRecord("empty")
        if any(len(part.text) < self._min_chars for part in segments if part.role not in ("system", "label")):
            return DroppedRecord("too_short")
        answers = [part.in_loss for part in segments if part.role == self._task.answer_role]
        if answers and not any(answers):
            return DroppedRecord("not_in_loss")
        digest = content_hash(fields, self._columns)
        repeated = self._deduplicator.content(digest)
        if repeated and self._dedup.exact:
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
        self.cleaned.update(self.cleaner.applied)
        question = digest if self._asked is None else self._question(fields, segments)
        if split is None:
            split = split_of(digest if self._splits.hash == "record" else question, self._splits)
        if question is not digest and not repeated:
            self._count_input(question, split)
        label = next((part.text for part in segments if part.role == "label"), None)
        return KeptRecord(clean, split, sum(len(part.text) for part in segments), label)

    @property
    def distinct_inputs(self) -> int:
        """Number of different inputs kept; 0 for a task whose whole record is its input."""
        return len(self._seen)

    def _question(self, fields: Mapping[str, Any], segments: Sequence[Segment]) -> bytes:
        """The hash of what the record asks: of its question columns, or of a conversation up to its first user turn."""
        assert self._asked is not None
        if self._task.answer_role != "assistant":
            return content_hash(fields, self._asked)
        first = next((number for number, part in enumerate(segments, 1) if part.role == "user"), len(segments))
        return content_hash({"": [part.text for part in segments[:first] if part.role != "system"]}, [""])

    def _count_input(self, question: bytes, split: str) -> None:
        before = self._seen.get(question)
        if before is None:
            self._seen[question] = split
            return
        self.inputs[CONTRADICTORY if self._task.labelled else SEVERAL_ANSWERS] += 1
        self.inputs[IN_SEVERAL_SPLITS] += before != split

    def _clean(self, name: str, value: Any) -> Any:
        if self._task.labelled and name == self._task.answer_role:
            if not isinstance(value, str) or value == value.strip():
                return value
            self.cleaner.applied.add("label")
            return value.strip()
        cleaned = self.cleaner.value(value)
        if isinstance(cleaned, list):
            return [_message(each) if isinstance(each, Mapping) else each for each in cleaned]
        return cleaned


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The role and content of a message, and its weight if it has one, without any other keys."""
    weight = {"weight": message["weight"]} if message.get("weight") is not None else {}
    return {name: message.get(name) for name in ("role", "content")} | weight
