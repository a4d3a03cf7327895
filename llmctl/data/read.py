"""Records from files of every known format, from standard input and from built-in data sets, one at a time."""

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
"""Raises `DataError` for a record that lacks what is needed, as `Task.check` does."""
FieldsOf = Callable[[str], Mapping[str, Any]]
"""The fields of a record that is one plain text, as `Task.record_of` gives them."""


@dataclass(slots=True)
class ReadContext:
    """How inputs are read, and what was seen beside the records."""

    check: Check | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    """Field of the task -> the user's column."""
    wanted: Collection[str] = ()
    """Columns that are needed, where that is known: other ones of a Parquet file are not read."""
    fields_of: FieldsOf | None = None
    document: DocumentUnit = "line"
    encoding: str | None = None
    """None where the verb has no setting for it: UTF-8."""
    limits: Limits = LIMITS
    whole_files: int = 0
    """Plain text files that were one document each."""
    boms: int = 0
    """Byte-order marks that were stripped."""
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

    `check` refuses a record without the fields that are needed: `lambda record: task.check(record,
    task.prompt_columns())`. `columns` is the user's `--columns`; `fields_of` makes a record of a plain text's line
    (`task.record_of`), without it text files are refused. A missing id is made from the fields' hash.
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
    """Every record, and every bad row as `Bad`. Raises for a file that is bad as a whole.

    A record without an id has the empty one. Raises `DataError` where an input that was named holds no records.
    """
    for source in sources:
        empty = True
        for row in _rows(source, context):
            empty = False
            yield row if isinstance(row, Bad) else _record(row, context)
        if empty and source.named:
            raise DataError("no records", where=source.name, hint="the file is empty or holds only blank lines")


def parse_columns(columns: str | None) -> dict[str, str]:
    """`text=body,label=stars` -> {text: body, label: stars}."""
    pairs = (part.partition("=") for part in (columns or "").split(",") if part)
    return {name.strip(): column.strip() for name, _, column in pairs}


def content_id(fields: Mapping[str, Any]) -> str:
    """A name for content: 16 hexadecimal digits of its hash."""
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _record(row: RawRecord, context: ReadContext) -> Record | Bad:
    fields = row.fields
    if context.rename:
        # A column that is named and not there is no reason to read one that was not named.
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
            problem = f"the column {absent[0]!r} of --columns is missing; the record has {', '.join(row.fields)}"
            error = DataError(
                problem, where=error.where, hint=near(absent[0], row.fields) or "name a column that it has"
            )
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
        kind, stream = _sniffed(_counted(stream, context))
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
    """What a plain text's document becomes. Raises `UsageError` where records have more than a text."""
    if fields_of is None:
        raise UsageError(
            f"{source.name} is plain text, which has no fields of its own",
            hint="give .jsonl, .csv or .parquet; for translation two aligned files: "
            "preprocess --source-file F --target-file F",
        )
    return fields_of


def _counted(stream: Iterator[bytes], context: ReadContext) -> Iterator[bytes]:
    """Standard input cannot be read twice: count and hash it as it comes."""
    for block in stream:
        context.stdin_bytes += len(block)
        context.stdin_hash.update(block)
        yield block


def _sniffed(stream: Iterator[bytes]) -> tuple[Format, Iterator[bytes]]:
    """JSONL if the first character that is not blank is `{`, else text."""
    held: list[bytes] = []
    for block in stream:
        held.append(block)
        if bare := block.removeprefix(b"\xef\xbb\xbf").strip():
            return "jsonl" if bare.startswith(b"{") else "text", itertools.chain(held, stream)
    return "text", iter(held)
