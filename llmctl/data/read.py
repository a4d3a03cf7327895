"""Reads records from files of every known format, standard input and built-in data sets, one at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.config import DocumentUnit
from llmctl.data import formats
from llmctl.data.decode import LIMITS, Limits, Text, blocks
from llmctl.data.formats import Bad, RawRecord
from llmctl.data.sources import Format, InputSource, find_sources
from llmctl.errors import DataError, UsageError
from llmctl.registry import near
from llmctl.types import Record

Check = Callable[[Record], None]
"""Raises `DataError` for a record without the required fields, as `Task.check` does."""
FieldsOf = Callable[[str], Mapping[str, Any]]
"""Makes the fields of a record from plain text, as `Task.record_of` does."""


@dataclass(slots=True)
class ReadContext:
    """Settings for reading inputs, and counts of what was read."""

    check: Check | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    """Field of the task -> the user's column."""
    wanted: Collection[str] = ()
    """Required columns, if known; other columns of a Parquet file are not read."""
    fields_of: FieldsOf | None = None
    document: DocumentUnit = "line"
    encoding: str | None = None
    """None means UTF-8, for verbs without an `--encoding` option."""
    limits: Limits = LIMITS
    whole_files: int = 0
    """Number of plain text files read as one document each."""
    boms: int = 0
    """Number of byte-order marks removed."""
    stdin_bytes: int = 0
    stdin_hash: Any = field(default_factory=hashlib.sha256)


def read_records(
    inputs: Sequence[str],
    *,
    check: Check | None = None,
    columns: str | None = None,
    fields_of: FieldsOf | None = None,
    document: DocumentUnit = "line",
    encoding: str | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Record]:
    """The records of files, folders, globs, built-in data sets or `-`. Raises `DataError` at the first bad one.

    `check` rejects records without the required fields: `lambda record: task.check(record, task.prompt_columns())`.
    `columns` is the value of `--columns`. `fields_of` turns a plain text document into fields (`task.record_of`);
    without it, text files are refused. Missing ids are derived from a hash of the fields.
    """
    context = ReadContext(
        check=check,
        rename=parse_columns(columns),
        fields_of=fields_of,
        document=document,
        encoding=encoding,
        limits=limits,
    )
    for item in scan(find_sources(inputs), context):
        if isinstance(item, Bad):
            raise item.error
        yield item if item.id else Record(content_id(item.fields), item.fields, item.origin)


def scan(sources: Sequence[InputSource], context: ReadContext) -> Generator[Record | Bad, None, None]:
    """Yield every record, and every bad row as `Bad`; raise for a file that cannot be read at all.

    Records without an id have an empty one. Raises `DataError` if an input that the user named has no records.
    """
    for source in sources:
        empty = True
        for row in _rows(source, context):
            empty = False
            yield row if isinstance(row, Bad) else _record(row, context)
        if empty and source.named:
            raise DataError("no records", where=source.name, hint="the file is empty or has only blank lines")


def parse_columns(columns: str | None) -> dict[str, str]:
    """`text=body,label=stars` -> {text: body, label: stars}."""
    pairs = (part.partition("=") for part in (columns or "").split(",") if part)
    return {name.strip(): column.strip() for name, _, column in pairs}


def content_id(fields: Mapping[str, Any]) -> str:
    """An id derived from the content: 16 hexadecimal digits of its hash."""
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _record(row: RawRecord, context: ReadContext) -> Record | Bad:
    fields = row.fields
    if context.rename:
        # If a named column is missing, do not fall back to a column with the field's own name.
        kept = {name: value for name, value in fields.items() if name not in context.rename}
        fields = kept | {name: fields[column] for name, column in context.rename.items() if column in fields}
    name = fields.get("id")
    record = Record("" if name is None else str(name), fields, row.origin)
    try:
        if context.check is not None:
            context.check(record)
    except DataError as error:
        absent = [column for column in context.rename.values() if column not in row.fields]
        if absent:
            problem = f"the column {absent[0]!r} of --columns is missing; fields found: {', '.join(row.fields)}"
            error = DataError(problem, where=error.where, hint=near(absent[0], row.fields) or "name an existing column")
        return Bad(error, row.fields)
    return record


def _rows(source: InputSource, context: ReadContext) -> Iterator[RawRecord | Bad]:
    if source.format == "pair":
        assert source.path is not None
        assert source.target is not None
        pair = [_text(blocks(path, str(path), context.limits), str(path), context) for path in source.paths]
        yield from formats.aligned(pair[0], pair[1])
        context.boms += sum(text.had_bom for text in pair)
        return
    if source.format == "parquet":
        assert source.path is not None
        wanted = frozenset([*(context.rename.get(name, name) for name in context.wanted), *context.rename.values()])
        yield from formats.parquet(source.path, source.name, wanted)
        return
    stream = blocks(source.path, source.name, context.limits)
    kind: Format = source.format
    if source.path is None:
        kind, stream = _detect_format(_count_stdin(stream, context))
    text = _text(stream, source.name, context)
    if kind == "jsonl":
        yield from formats.jsonl(text)
    elif kind == "json":
        yield from formats.json_file(text)
    elif kind in ("csv", "tsv"):
        yield from formats.table(text, "," if kind == "csv" else "\t")
    else:
        context.whole_files += context.document == "file"
        yield from formats.plain(text, context.document, plain_fields(source, context.fields_of))
    context.boms += text.had_bom


def _text(stream: Iterator[bytes], name: str, context: ReadContext) -> Text:
    return Text(stream, name, context.encoding, context.limits)


def plain_fields(source: InputSource, fields_of: FieldsOf | None) -> FieldsOf:
    """Return `fields_of`. Raises `UsageError` if it is None: the task needs more fields than a plain text has."""
    if fields_of is None:
        raise UsageError(
            f"{source.name} is plain text, but the task needs several fields",
            hint="use .jsonl, .csv or .parquet; for translation, two aligned files: "
            "preprocess --source-file F --target-file F",
        )
    return fields_of


def _count_stdin(stream: Iterator[bytes], context: ReadContext) -> Iterator[bytes]:
    """Count and hash standard input while it is read, because it cannot be read twice."""
    for block in stream:
        context.stdin_bytes += len(block)
        context.stdin_hash.update(block)
        yield block


def _detect_format(stream: Iterator[bytes]) -> tuple[Format, Iterator[bytes]]:
    """JSONL if the first non-blank character is `{`, else text; and the stream from its start."""
    held: list[bytes] = []
    for block in stream:
        held.append(block)
        if bare := block.removeprefix(b"\xef\xbb\xbf").strip():
            return "jsonl" if bare.startswith(b"{") else "text", itertools.chain(held, stream)
    return "text", iter(held)
