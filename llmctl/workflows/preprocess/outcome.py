"""What reading a part leaves: files in the scratch folder, and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctl.data.cleaning.judge import DroppedRecord
from llmctl.types import Adapting

SCRATCH: Final = ".scratch"
"""The folder of what only making the prepared folder needs."""
TEXT: Final = "text"
SAMPLES: Final = 20
"""Dropped records kept for the report, of each reason."""
BAD_RECORD: Final = "bad_record"
"""The reason of records that cannot be read."""
ADAPTING: Final = ("layouts", "changed", "turns", "unused")
"""The counts of `Adapting`."""
COUNTS: Final = ("read", "rejected", "boms", "nul", "whole_files")


def place_of(scratch: Path, kind: str, part: int) -> Path:
    return scratch / f"{kind}-{part:05d}"


@dataclass(slots=True)
class ReadResult:
    """What was read; can be added up."""

    read: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: defaultdict[str, list[DroppedRecord]] = field(default_factory=lambda: defaultdict(list))
    """The first `SAMPLES` records dropped for each reason."""
    labels: list[dict[str, int]] = field(default_factory=list)
    marks: list[dict[Any, int]] = field(default_factory=list)
    """The tables of the candidates of each part."""
    adapting: Adapting = field(default_factory=Adapting)
    notes: dict[str, None] = field(default_factory=dict)
    boms: int = 0
    nul: int = 0
    whole_files: int = 0
    recordings: dict[str, list[int] | None] = field(default_factory=dict)
    """Of a part: the files that its records name, as `integrity.state` describes them."""
    reused: int = 0
    """Parts that were read by a command that was interrupted."""
    stdin: tuple[int, str] | None = None
    """Bytes and SHA-256 of standard input, if it was read."""

    def drop(self, record: DroppedRecord) -> None:
        self.dropped[record.reason] += 1
        self.keep_sample(record)

    def keep_sample(self, record: DroppedRecord) -> None:
        if len(self.samples[record.reason]) < SAMPLES:
            self.samples[record.reason].append(record)

    def add(self, other: ReadResult) -> None:
        """Add what was read of the next part."""
        for name in (*COUNTS, "reused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped.update(other.dropped)
        for each in (each for records in other.samples.values() for each in records):
            self.keep_sample(each)
        self.labels += other.labels
        self.marks += other.marks
        for counts in ADAPTING:
            getattr(self.adapting, counts).update(getattr(other.adapting, counts))
        self.notes |= other.notes
        self.stdin = other.stdin or self.stdin
