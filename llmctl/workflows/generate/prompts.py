"""Read the prompts of `generate`: from the command line, a file or standard input."""

from __future__ import annotations

import glob
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from llmctl.compatibility import references_audio
from llmctl.data.reading.formats import Bad
from llmctl.data.reading.read import content_id
from llmctl.data.reading.rows import TextLine, ordered_rows
from llmctl.data.reading.sources import AUDIO as ENDINGS
from llmctl.data.reading.sources import STDIN, STDIN_NAME
from llmctl.errors import DataError, UsageError
from llmctl.tasks.spec import Task
from llmctl.types import Audio, Record
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

    Raises for a file that cannot be read, and `DataError` for one without rows. The second row of an id that asks
    something else is a fault.
    """
    seen = Seen()
    empty = True
    expected = [*(column.name for column in task.columns), "prompt"]
    for row in ordered_rows(input, adapt=task.adapt, open_audio=references_audio(task), expected=expected):
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
            yield replace(record, id=content_id(record.fields))
            continue
        before = seen.other(record)
        if before is not None:
            yield DataError(
                f"duplicate id {record.id!r}, as in {before}",
                where=record.origin,
                hint="give each row an id of its own, or leave the ids out",
            )
            continue
        yield record
    if empty:
        raise DataError("no prompts", where=STDIN_NAME if input == STDIN else input, hint="it is empty")


class Seen:
    """The ids of the rows so far, in a temporary file, so that memory does not depend on their number."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # an empty name: a file that its end removes
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, content TEXT, origin TEXT) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def other(self, record: Record) -> str | None:
        """The place of an earlier row that has the id of this one and asks something else."""
        row = (record.id.encode("utf-8", "surrogatepass"), content_id(record.fields))
        added = self._table.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (*row, record.origin)).rowcount
        if added:
            return None
        content, origin = self._table.execute("SELECT content, origin FROM seen WHERE id = ?", row[:1]).fetchone()
        return None if content == row[1] else origin


ONE_ROW_PER_LINE: Final = (".jsonl", ".ndjson", ".txt")


def count_rows(input: str) -> int | None:
    """The number of lines of a file with one row per line; None for other inputs."""
    path = Path(input)
    if input == STDIN or not path.is_file() or path.suffix.lower() not in ONE_ROW_PER_LINE:
        return None
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n")


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
