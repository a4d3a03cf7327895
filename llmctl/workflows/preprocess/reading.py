"""Reads a part of the inputs in any process: writes its text and its candidates, returns counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmctl.data.cleaning.candidates import CandidateWriter
from llmctl.data.cleaning.filters.spec import FILTERS, Filter, open_filters
from llmctl.data.cleaning.judge import DroppedRecord, Judge
from llmctl.data.cleaning.near import NearWriter, Signer
from llmctl.data.reading.parts import Part
from llmctl.data.reading.read import ReadContext, scan
from llmctl.data.spec import CleanRules
from llmctl.data.storing.text import TextWriter
from llmctl.errors import DataError
from llmctl.tasks.spec import Task
from llmctl.workflows.preprocess.bad_records import BadRecords
from llmctl.workflows.preprocess.context import read_context_of
from llmctl.workflows.preprocess.continuing import finish, finished
from llmctl.workflows.preprocess.outcome import BAD_RECORD, TEXT, ReadResult, place_of
from llmctl.workflows.preprocess.spec import PreprocessConfig

PROGRESS_EVERY: Final = 64
"""Records between two reports of progress."""


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A part to read. `scratch`: the folder of what is removed when the prepared folder is made. `template`: that of a
    tokenizer whose chat template knows tools."""

    config: PreprocessConfig
    task: Task
    part: Part
    clean: CleanRules
    scratch: Path
    template: Path | None = None

    def place(self, kind: str) -> Path:
        """The path of a scratch file of the part."""
        return place_of(self.scratch, kind, self.part.number)


def filters_of(config: PreprocessConfig) -> list[Filter]:
    """The filters that the settings turn on."""
    return open_filters({row.setting: getattr(config, row.setting) for row in FILTERS})


def judge_of(config: PreprocessConfig, task: Task, clean: CleanRules, filters: Sequence[Filter]) -> Judge:
    """What decides about a single record."""
    asked = None if task.packed else [column.name for column in task.prompt_columns()]
    columns = [column.name for column in task.columns]
    return Judge(task, columns, clean, config.splits, asked=asked, filters=filters)


def read_part(job: ReadJob, done: Callable[[int], None] = lambda records: None) -> ReadResult:
    """Read, clean and filter the records of a part, unless an interrupted command did. `done` is called with numbers of records.

    Raises `DataError` for a bad record, unless `on_bad_record` says otherwise.
    """
    config, task = job.config, job.task
    if (found_before := finished(job.scratch, job.part)) is not None:
        done(found_before.read)
        return found_before
    result = ReadResult()
    context = read_context_of(config, task, job.template, result.recordings)
    judge = judge_of(config, task, job.clean, _filters(job))
    bad = BadRecords(config.on_bad_record, job.place("rejects"), result.dropped)
    text = TextWriter(job.scratch / TEXT, {column.name: column.kind for column in task.columns}, part=job.part.number)
    candidates = CandidateWriter(job.place("candidates"))
    with contextlib.ExitStack() as stack:
        for each in (text, candidates, bad):
            stack.enter_context(each)
        near = stack.enter_context(_near_writer(job))
        for source, split in zip(job.part.sources, job.part.splits, strict=True):
            for item in scan([source], context):
                result.read += 1
                if not result.read % PROGRESS_EVERY:
                    done(PROGRESS_EVERY)
                try:
                    found = judge.judge(item, split)
                except DataError as error:
                    bad.add(error, item)
                    result.keep_sample(DroppedRecord(BAD_RECORD, error.message, origin=error.where or ""))
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
    done(result.read % PROGRESS_EVERY)
    result.rejected, result.nul = bad.rejected, judge.cleaner.nul
    result.labels, result.marks = [candidates.labels], [candidates.marks]
    _take(result, context, stdin=any(source.path is None for source in job.part.sources))
    if result.stdin is None:
        finish(job.scratch, job.part, result)
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
