"""Reads a part of the inputs in any process: writes its text and its candidates, returns counts."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctl.data.candidates import CandidateWriter
from llmctl.data.filters.spec import FILTERS, Filter, open_filters
from llmctl.data.judge import DroppedRecord, Judge
from llmctl.data.near import NearWriter, Signer
from llmctl.data.parts import Part
from llmctl.data.read import ReadContext, scan
from llmctl.data.spec import CleanRules
from llmctl.data.text import TextWriter
from llmctl.errors import DataError
from llmctl.tasks.spec import Task
from llmctl.types import Adapting
from llmctl.workflows.preprocess.bad_records import BadRecords
from llmctl.workflows.preprocess.checks import read_context_of
from llmctl.workflows.preprocess.spec import PreprocessConfig

SAMPLES: Final = 20
"""Dropped records kept for the report, of each reason."""
TEXT: Final = "text"
TOLD: Final = 64
"""Records between two reports of progress."""


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A part to read. `folder`: the prepared folder in the making; `scratch`: what is removed when it is made."""

    config: PreprocessConfig
    task: Task
    part: Part
    clean: CleanRules
    folder: Path
    scratch: Path

    def place(self, kind: str) -> Path:
        """The path of a scratch file of the part."""
        return place_of(self.scratch, kind, self.part.number)


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
        for name in ("read", "rejected", "boms", "nul", "whole_files"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped.update(other.dropped)
        for each in (each for records in other.samples.values() for each in records):
            self.keep_sample(each)
        self.labels += other.labels
        self.marks += other.marks
        for counts in ("layouts", "changed", "unused"):
            getattr(self.adapting, counts).update(getattr(other.adapting, counts))
        self.notes |= other.notes
        self.stdin = other.stdin or self.stdin


def filters_of(config: PreprocessConfig) -> list[Filter]:
    """The filters that the settings turn on."""
    return open_filters({row.setting: getattr(config, row.setting) for row in FILTERS})


def judge_of(config: PreprocessConfig, task: Task, clean: CleanRules, filters: Sequence[Filter]) -> Judge:
    """What decides about a single record."""
    asked = None if task.packed else [column.name for column in task.prompt_columns()]
    columns = [column.name for column in task.columns]
    return Judge(task, columns, clean, config.splits, asked=asked, filters=filters)


def read_part(job: ReadJob, done: Callable[[int], None] = lambda records: None) -> ReadResult:
    """Read, clean and filter the records of a part. `done` is called with the number of records after every `TOLD`.

    Raises `DataError` for a bad record, unless `on_bad_record` says otherwise.
    """
    config, task = job.config, job.task
    context, result = read_context_of(config, task), ReadResult()
    judge = judge_of(config, task, job.clean, _filters(job))
    bad = BadRecords(config.on_bad_record, job.place("rejects"), result.dropped)
    text = TextWriter(job.folder / TEXT, {column.name: column.kind for column in task.columns}, part=job.part.number)
    candidates = CandidateWriter(job.place("candidates"))
    with contextlib.ExitStack() as stack:
        for each in (text, candidates, bad):
            stack.enter_context(each)
        near = stack.enter_context(_near_writer(job))
        for source, split in zip(job.part.sources, job.part.splits, strict=True):
            for item in scan([source], context):
                result.read += 1
                if not result.read % TOLD:
                    done(TOLD)
                try:
                    found = judge.judge(item, split)
                except DataError as error:
                    bad.add(error, item)
                    continue
                if isinstance(found, DroppedRecord):
                    result.drop(found)
                    continue
                record = found.record
                candidates.add(found, given_id=bool(record.id))
                text.add(found.split, record, found.characters, known_as=record.id or found.digest[:8].hex())
                if near is not None:
                    segments = task.segments(record)
                    near.add("\n".join(each.text for each in segments if each.role != "label"))
    done(result.read % TOLD)
    result.rejected, result.nul = bad.rejected, judge.cleaner.nul
    result.labels, result.marks = [candidates.labels], [candidates.marks]
    _take(result, context, stdin=any(source.path is None for source in job.part.sources))
    return result


_OPEN: dict[Path, list[Filter]] = {}
"""The filters of the run that this process reads for, by its scratch folder: opening them reads files and models."""


def _filters(job: ReadJob) -> list[Filter]:
    if job.scratch not in _OPEN:
        _OPEN.clear()
        _OPEN[job.scratch] = filters_of(job.config)
    return _OPEN[job.scratch]


def _take(result: ReadResult, context: ReadContext, *, stdin: bool) -> None:
    result.adapting, result.notes = context.adapting, context.notes
    result.boms, result.whole_files = context.boms, context.whole_files
    if stdin:
        result.stdin = context.stdin_bytes, context.stdin_hash.hexdigest()


def _near_writer(job: ReadJob) -> contextlib.AbstractContextManager[NearWriter | None]:
    """Keeps what near-duplicates are found by, if they are looked for."""
    dedup = job.config.dedup
    if dedup.near is None:
        return contextlib.nullcontext()
    return NearWriter(job.place("near"), Signer(dedup.near, dedup.shingle))
