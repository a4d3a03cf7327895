"""Streams the documents of plain text, and aligned lines of two files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmctl.config import DocumentUnit
from llmctl.data.reading.decode import Text
from llmctl.data.reading.formats import Bad, RawRecord
from llmctl.errors import DataError


def plain(
    text: Text, document: DocumentUnit, fields_of: Callable[[str], Mapping[str, Any]]
) -> Iterator[RawRecord | Bad]:
    """Documents of a plain text file: the file itself, its paragraphs (separated by blank lines) or its non-blank lines."""
    documents: Iterator[tuple[int, str]]
    if document == "file":
        content = text.all()
        documents = iter([(1, content)] if content.strip() else [])
    elif document == "line":
        documents = ((number, line) for number, line in text.lines() if line and not line.isspace())
    else:
        documents = _paragraphs(text)
    for number, each in documents:
        fault = text.fault(number, each)
        yield Bad(fault, each) if fault else RawRecord(f"{text.name}:{number}", fields_of(each))


def _paragraphs(text: Text) -> Iterator[tuple[int, str]]:
    begin, size = 1, 0
    held: list[str] = []
    for number, line in text.lines():
        if line and not line.isspace():
            begin = begin if held else number
            held.append(line)
            size += len(line)
            if size > text.limits.record_characters:
                raise text.too_long("paragraph", f"{text.name}:{begin}")
        elif held:
            yield begin, "\n".join(held)
            held, size = [], 0
    if held:
        yield begin, "\n".join(held)


def aligned(source: Text, target: Text) -> Iterator[RawRecord | Bad]:
    """Pair line n of one file with line n of the other. Raises `DataError` with both counts if they differ."""
    sources, targets = source.lines(), target.lines()
    for both, (left, right) in enumerate(itertools.zip_longest(sources, targets)):
        if left is None or right is None:
            more = 1 + sum(1 for _ in (targets if left is None else sources))
            counts = (both, both + more) if left is None else (both + more, both)
            raise DataError(
                f"{source.name} has {counts[0]:,} lines, {target.name} has {counts[1]:,}; aligned files need equal counts",
                where=f"{(source if left is None else target).name}:{both + 1}",
            )
        fault = source.fault(*left) or target.fault(*right)
        fields = {"source": left[1], "target": right[1]}
        yield Bad(fault, fields) if fault else RawRecord(f"{source.name}:{left[0]}", fields)
