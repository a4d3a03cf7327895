"""Read the prompts of `generate`: from the command line, a file or standard input."""

from __future__ import annotations

import itertools
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmctl.data import formats
from llmctl.data.decode import Text, blocks
from llmctl.data.read import ReadContext, content_id, scan
from llmctl.data.sources import InputSource, find_sources
from llmctl.errors import DataError, UsageError
from llmctl.tasks.spec import Task
from llmctl.types import Record

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
    """Every row of an input, in order. Plain text (`.txt` or an unknown suffix): each line, empty ones included, so
    that lines stay aligned. Other formats: each record, whatever its columns.

    Standard input is JSONL if its first non-blank character is `{`, else lines.
    Raises for a file that cannot be read, and `DataError` for one without rows.
    """
    for source in find_sources([input], unknown="text"):
        plain = source.format in ("text", "unknown")
        rows: Iterator[Record | formats.Bad] = (
            _plain(source, task) if plain else scan([replace(source, named=False)], ReadContext(adapt=task.adapt))
        )
        empty = True
        for row in rows:
            empty = False
            if isinstance(row, formats.Bad):
                yield row.error
            else:
                yield row if row.id else replace(row, id=content_id(row.fields))
        if empty:
            raise DataError("no prompts", where=source.name, hint="it is empty")


def _plain(source: InputSource, task: Task) -> Iterator[Record | formats.Bad]:
    stream = blocks(source.path, source.name)
    if source.path is None:
        held = _until_text(stream)
        stream = itertools.chain(held, stream)
        if b"".join(held).removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
            for row in formats.jsonl(Text(stream, source.name)):
                yield row if isinstance(row, formats.Bad) else Record(_id(row.fields), row.fields, row.origin)
            return
    text = Text(stream, source.name)
    for number, line in text.lines():
        fault = text.fault(number, line)
        yield formats.Bad(fault, line) if fault else Record("", task.record_of(line), f"{source.name}:{number}")


def _until_text(stream: Iterator[bytes]) -> list[bytes]:
    """Blocks up to the first that contains more than whitespace."""
    held: list[bytes] = []
    for block in stream:
        held.append(block)
        if block.removeprefix(BOM_UTF8).strip():
            break
    return held


def _id(fields: Mapping[str, Any]) -> str:
    name = fields.get("id")
    return "" if name is None else str(name)
