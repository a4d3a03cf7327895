"""Rows in the order of a file: prompts, predictions, references, from any file, pipe or standard input."""

from __future__ import annotations

import itertools
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

from llmctl.data.reading import formats
from llmctl.data.reading.decode import Text, blocks
from llmctl.data.reading.formats import Bad
from llmctl.data.reading.read import Adapt, OpenAudio, ReadContext, record_of, scan
from llmctl.data.reading.sources import InputSource, find_sources
from llmctl.types import Record


class TextLine(NamedTuple):
    """A line of plain text; `origin` is `file:line`."""

    origin: str
    text: str


def ordered_rows(
    input: str, *, adapt: Adapt | None = None, open_audio: OpenAudio | None = None, expected: Collection[str] = ()
) -> Iterator[Record | TextLine | Bad]:
    """Every row of an input, in order, bad ones included.

    Plain text (`.txt` or an unknown suffix): each line, empty ones included, so that lines stay aligned. Other formats:
    each record, whatever its columns. Standard input and pipes are JSONL if their first non-blank character is `{`, JSON if
    they are an array of objects, else lines. `expected`: see `ReadContext`. Raises `UsageError` for a missing input and `DataError` for a file that cannot be read.
    """
    for source in find_sources([input], unknown="text"):
        context = ReadContext(adapt=adapt, open_audio=open_audio, expected=expected)
        if source.format in ("text", "unknown"):
            yield from _plain(source, context)
        else:
            yield from scan([replace(source, named=False)], context)


def _plain(source: InputSource, context: ReadContext) -> Iterator[Record | TextLine | Bad]:
    stream = blocks(source.path, source.name)
    if source.path is None or not source.path.is_file():
        held = _until_text(stream)
        stream = itertools.chain(held, stream)
        start = b"".join(b"".join(held).removeprefix(BOM_UTF8).split())
        if start.startswith((b"{", b"[{")):
            text = Text(stream, source.name)
            wanted = formats.Wanted(context.columns)
            listed = start.startswith(b"[")
            for row in formats.json_file(text, wanted=wanted) if listed else formats.jsonl(text, wanted):
                yield row if isinstance(row, Bad) else record_of(row, context, source)
            return
    text = Text(stream, source.name)
    for number, line in text.lines():
        fault = text.fault(number, line)
        yield Bad(fault, line) if fault else TextLine(f"{source.name}:{number}", line)


def _until_text(stream: Iterator[bytes]) -> list[bytes]:
    """Blocks up to the first that contains more than whitespace, and than the start of an array."""
    held: list[bytes] = []
    for block in stream:
        held.append(block)
        if block.removeprefix(BOM_UTF8).strip() not in (b"", b"["):
            break
    return held
