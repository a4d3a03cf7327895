"""Reads records from files of every known format, standard input and built-in data sets, one at a time."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctl.config import DocumentUnit
from llmctl.data.reading import columnar, documents, formats, tables
from llmctl.data.reading.decode import LIMITS, PEEKED_BYTES, Limits, Text, blocks
from llmctl.data.reading.formats import Bad, RawRecord
from llmctl.data.reading.sources import Format, InputSource, find_sources, shown
from llmctl.data.reading.tmx import tmx
from llmctl.errors import DataError, UsageError
from llmctl.readable import field_names, found_fields
from llmctl.registry import near
from llmctl.types import TURNS, Adapting, Record

Check = Callable[[Record], None]
"""Raises `DataError` for a record without the required fields, as `Task.check` does."""
Adapt = Callable[[Record, Adapting], Record]
"""Turns a record in another layout into one of the task's own, as `Task.adapt` does."""
OpenAudio = Callable[[Record, Path | None], Record]
"""Finds the recordings of a record, whose paths are relative to the folder; see `recordings.py`."""
RECORD_LISTS: Final = (*(name for name in TURNS if name != "data"), "history", "prompt", "completion", "answers")
"""Keys of lists inside a record, which are not lists of records; `data` may be either."""
FieldsOf = Callable[[str], Mapping[str, Any]]
"""Makes the fields of a record from plain text, as `Task.record_of` does."""


@dataclass
class ReadContext:
    """Settings for reading inputs, and counts of what was read."""

    check: Check | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    """Field of the task -> the user's column."""
    wanted: Collection[str] = ()
    """Required columns, if known; other columns of a Parquet file are not read."""
    expected: Collection[str] = ()
    """Columns that show how a table or an object is to be read, where all its columns are read; default: `wanted`."""
    also: Collection[str] = ()
    """Further columns that `adapt` reads."""
    adapt: Adapt | None = None
    adapting: Adapting = field(default_factory=Adapting)
    open_audio: OpenAudio | None = None
    """Of a task that hears."""
    fields_of: FieldsOf | None = None
    document: DocumentUnit = "line"
    delimiter: tables.Delimiter = "auto"
    quoting: tables.Quoting = "auto"
    records: str | None = None
    """Key of the list of records in a JSON object; None: found."""
    notes: dict[str, None] = field(default_factory=dict)
    """What was found about the files, each once and in order."""
    encoding: str | None = None
    """None means UTF-8, for verbs without an `--encoding` option."""
    limits: Limits = LIMITS
    whole_files: int = 0
    """Number of plain text files read as one document each."""
    boms: int = 0
    """Number of byte-order marks removed."""
    stdin_bytes: int = 0
    stdin_hash: Any = field(default_factory=hashlib.sha256)

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """Fields that are read."""
        return frozenset((*self.wanted, "id"))

    @property
    def columns(self) -> list[str]:
        """Columns of a file that show how it is to be read."""
        return [self.rename.get(name, name) for name in self.wanted or self.expected]

    def say(self, note: str) -> None:
        self.notes[note] = None


def read_records(
    inputs: Sequence[str],
    *,
    check: Check | None = None,
    columns: str | None = None,
    adapt: Adapt | None = None,
    open_audio: OpenAudio | None = None,
    fields_of: FieldsOf | None = None,
    expected: Collection[str] = (),
    document: DocumentUnit = "line",
    encoding: str | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Record]:
    """The records of files, folders, globs, built-in data sets or `-`. Raises `DataError` at the first bad one.

    `check` rejects records without the required fields: `lambda record: task.check(record, task.prompt_columns())`.
    `columns` is the value of `--columns`. `fields_of` turns a plain text document into fields (`task.record_of`);
    without it, text files are refused. `expected`: columns by which delimiters and objects of records are found. Missing ids are derived from a hash of the fields.
    """
    context = ReadContext(
        check=check,
        rename=parse_columns(columns),
        adapt=adapt,
        open_audio=open_audio,
        fields_of=fields_of,
        expected=expected,
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
            yield row if isinstance(row, Bad) else record_of(row, context, source)
        if empty and source.named:
            more = " below a header" if source.format in ("csv", "tsv") else ""
            raise DataError("no records", where=source.name, hint=f"the file is empty or has only blank lines{more}")


def parse_columns(columns: str | None) -> dict[str, str]:
    """`text=body,label=stars` -> {text: body, label: stars}."""
    pairs = (part.partition("=") for part in (columns or "").split(",") if part)
    return {name.strip(): column.strip() for name, _, column in pairs}


def content_id(fields: Mapping[str, Any]) -> str:
    """An id derived from the content: 16 hexadecimal digits of its hash."""
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def record_of(row: RawRecord, context: ReadContext, source: InputSource) -> Record | Bad:
    """The record of a row, with an empty id if it has none; bad if it does not fit the task."""
    fields = row.fields
    if context.rename:
        # If a named column is missing, do not fall back to a column with the field's own name.
        kept = {name: value for name, value in fields.items() if name not in context.rename}
        moved = {name: _column(fields, column) for name, column in context.rename.items()}
        used = {column.partition(".")[0] if column not in fields else column for column in context.rename.values()}
        kept = {name: value for name, value in kept.items() if name not in used}
        fields = kept | {name: value for name, value in moved.items() if value is not _ABSENT}
    name = fields.get("id")
    record = Record("" if name is None else str(name), fields, row.origin)
    try:
        if context.adapt is not None:
            record = context.adapt(record, context.adapting)
        if context.open_audio is not None:
            record = context.open_audio(record, source.path.parent if source.path and source.path.is_file() else None)
        if context.check is not None:
            context.check(record)
    except DataError as error:
        columns = [column for name, column in context.rename.items() if name != "id"]  # `id=none` leaves the ids out
        absent = [column for column in columns if _column(row.fields, column) is _ABSENT]
        if absent:
            problem = f"the column {absent[0]!r} of --columns is missing; fields found: {found_fields(row.fields)}"
            error = DataError(
                problem, where=error.where, hint=near(absent[0], field_names(row.fields)) or "name an existing column"
            )
        return Bad(error, row.fields)
    if context.wanted and not record.fields.keys() <= context.known:
        context.adapting.unused.update(record.fields.keys() - context.known)
    return record


_ABSENT: Final = object()


def _column(fields: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or with dots of a nested one (`translation.en`, `pair.0`), also in JSON in a cell; `_ABSENT` if
    there is none."""
    if column in fields:
        return fields[column]
    value: Any = fields
    for part in column.split("."):
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                value = formats.parse_json(value, "")
            except DataError:
                return _ABSENT
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return _ABSENT
    return value


def _rows(source: InputSource, context: ReadContext) -> Iterator[RawRecord | Bad]:
    if source.format == "pair":
        assert source.path is not None
        assert source.target is not None
        pair = [_text(blocks(path, shown(path), context.limits), shown(path), context) for path in source.paths]
        yield from documents.aligned(pair[0], pair[1])
        context.boms += sum(text.had_bom for text in pair)
        return
    if source.format == "recording":
        yield _recording(source, context)
        return
    if source.format == "parquet":
        assert source.path is not None
        named = [context.rename.get(name, name) for name in context.wanted]
        wanted = frozenset(name.partition(".")[0] for name in (*named, *context.rename.values()))
        also = frozenset(("id", *context.also))
        yield from columnar.parquet(source.path, source.name, wanted, also, context.adapting.unused)
        return
    if source.format == "arrow":
        assert source.path is not None
        yield from columnar.arrow(source.path, source.name)
        return
    stream = blocks(source.path, source.name, context.limits, start=source.start, stop=source.stop)
    kind: Format = source.format
    if source.path is None:
        kind, stream = _detect_format(_count_stdin(stream, context))
    if kind == "tmx":
        yield from tmx(stream, source.name, context.limits, tuple(context.rename.values()), context.say)
        return
    text = Text(stream, source.name, context.encoding, context.limits, first_line=source.first_line)
    if kind == "jsonl" and source.first_line == 1 and source.stop is None and text.begins(formats.is_one_value):
        context.say(f"{source.name}: read as JSON, because it is not written in lines")
        kind = "json"
    if kind == "jsonl":
        yield from formats.jsonl(text, _wanted(context), whole=source.stop is None, say=context.say)
    elif kind == "json":
        yield from formats.json_file(text, context.records, _wanted(context), context.say)
    elif kind in ("csv", "tsv"):
        yield from tables.table(
            text,
            "," if kind == "csv" else "\t",
            delimiter=context.delimiter,
            quoting=context.quoting,
            wanted=context.columns,
            say=context.say,
        )
    else:
        context.whole_files += context.document == "file"
        yield from documents.plain(text, context.document, plain_fields(source, context.fields_of))
    context.boms += text.had_bom
    if text.encoding != (context.encoding or "utf-8"):
        context.say(f"{source.name}: read as {text.encoding.upper()}, as its byte-order mark says")


def _wanted(context: ReadContext) -> formats.Wanted:
    """By what a record is known in JSON: the columns of the user, where they have other names."""
    nested = {name.partition(".")[0] for name in context.rename.values()}
    return formats.Wanted(context.columns, {*nested, *context.also, *RECORD_LISTS}, context.fields_of)


def _recording(source: InputSource, context: ReadContext) -> RawRecord | Bad:
    """A recording with the text, or the fields, of the file beside it."""
    assert source.path is not None
    fields: dict[str, Any] = {"audio": source.path.name}
    if source.target is None:
        beside = source.path.with_suffix(".txt").name
        return Bad(DataError(f"the recording has no text beside it: {beside}", where=source.name), fields)
    name = shown(source.target)
    content = _text(blocks(source.target, name, context.limits), name, context).all()
    if source.target.suffix.lower() != ".json":
        return RawRecord(source.name, fields | {"text": content.strip()})
    try:
        written = formats.parse_json(content, name, last=True)
    except DataError as error:
        return Bad(error, content)
    if not isinstance(written, dict):
        return Bad(DataError("expected a JSON object", where=name), written)
    return RawRecord(source.name, written | fields)


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
    """JSONL if the first non-blank character is `{`, JSON for an array of objects, else text; and the stream from its start."""
    held: list[bytes] = []
    start = b""
    for block in stream:
        held.append(block)
        start += b"".join(block.removeprefix(b"\xef\xbb\xbf")[:PEEKED_BYTES].split())
        if start and start != b"[":
            kind: Format = "jsonl" if start.startswith(b"{") else "json" if start.startswith(b"[{") else "text"
            return kind, itertools.chain(held, stream)
    return "text", iter(held)
