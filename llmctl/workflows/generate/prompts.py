"""Read the prompts of `generate`: from the command line, a file or standard input."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl.data.formats import Bad
from llmctl.data.read import content_id
from llmctl.data.rows import TextLine, ordered_rows
from llmctl.data.sources import AUDIO as ENDINGS
from llmctl.data.sources import STDIN, STDIN_NAME
from llmctl.errors import DataError, UsageError
from llmctl.tasks.spec import Task
from llmctl.types import Audio, Record
from llmctl.workflows.compatibility import references_audio
from llmctl.workflows.inference.asked import asked

PromptRow = Record | DataError
"""A record to answer, or the fault of a row."""


def prompt_records(prompts: Sequence[str], task: Task) -> list[Record]:
    """The prompts of the command line as records. Raises `UsageError` for bytes that are not UTF-8."""
    records = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"prompt {number} contains bytes that are not UTF-8", hint="write it to a file: --input"
            ) from error
        fields = task.record_of(prompt)
        records.append(Record(content_id(fields), fields, f"prompt {number}"))
    return records


def input_rows(input: str, task: Task) -> Iterator[PromptRow]:
    """Every row of an input, in order: see `data.rows.ordered_rows`. A line of plain text and a row with a `prompt` ask
    what the task asks.

    Raises for a file that cannot be read, and `DataError` for one without rows or with two rows of one id.
    """
    origins: dict[str, tuple[str, Mapping[str, Any]]] = {}
    empty = True
    for row in ordered_rows(input, adapt=task.adapt, open_audio=references_audio(task)):
        empty = False
        if isinstance(row, Bad):
            yield row.error
            continue
        if isinstance(row, TextLine):
            fields = task.record_of(row.text)
            yield Record(content_id(fields), fields, row.origin)
            continue
        try:
            record = asked(row, task)
        except DataError as error:
            yield error
            continue
        if not record.id:
            record = replace(record, id=content_id(record.fields))
        elif origins.setdefault(record.id, (record.origin, record.fields))[1] != record.fields:
            raise DataError(
                f"duplicate id {record.id!r}, as in {origins[record.id][0]}",
                where=record.origin,
                hint="give each row an id of its own, or leave the ids out",
            )
        yield record
    if empty:
        raise DataError("no prompts", where=STDIN_NAME if input == STDIN else input, hint="it is empty")


def recordings_of(input: str) -> list[Record]:
    """The recordings that an input names: a file, the files of a folder, or those that match a pattern; none where it
    names no recording."""
    path = Path(input)
    found = [path]
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if not any(part.startswith(".") for part in each.parts))
    elif not path.exists() and glob.has_magic(input):
        found = sorted(map(Path, glob.glob(input, recursive=True)))
    kept = [each for each in found if each.suffix.lower() in ENDINGS]
    return [Record(str(each), {"audio": Audio(str(each))}, str(each)) for each in kept]


def row_id(row: PromptRow) -> str:
    """The id of a row in the output; of a row that could not be read, its place."""
    return row.id if isinstance(row, Record) else row.where or ""


def with_system(record: Record, text: str) -> Record:
    """A conversation that begins with this system message, unless it has one of its own."""
    messages = record.fields.get("messages")
    if not isinstance(messages, list) or any(
        isinstance(each, Mapping) and each.get("role") == "system" for each in messages
    ):
        return record
    return replace(record, fields={**record.fields, "messages": [{"role": "system", "content": text}, *messages]})
