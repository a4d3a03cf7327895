"""Cuts inputs into parts that can be read apart from each other: a large file by lines, several small files together.

The parts follow from the inputs alone, not from who reads them, so the result is the same for any number of processes.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, NamedTuple

from llmctl.config import DocumentUnit
from llmctl.data.reading.decode import COMPRESSED, LIMITS, PEEKED_BYTES, compression_of
from llmctl.data.reading.formats import is_one_value
from llmctl.data.reading.sources import InputSource
from llmctl.data.workers import SMALL_BYTES, Executor

PARTS: Final = 64
"""Parts that an input of more than `SMALL_BYTES` is cut into, as long as they have between a quarter of that and
`LARGE_BYTES`: with fewer and larger ones, one process would read the last part while the others wait."""
LARGE_BYTES: Final = 256 << 20
MOST_PARTS: Final = 16_384
"""Beyond this many, parts grow."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one process reads at once: whole files, or some lines of one. `splits`: the split that each is named after."""

    number: int
    sources: tuple[InputSource, ...]
    splits: tuple[str | None, ...]


class _Range(NamedTuple):
    path: Path
    start: int
    stop: int


def part_bytes(total: int) -> int:
    """Bytes of a part of an input of `total` bytes."""
    if total <= SMALL_BYTES:
        return SMALL_BYTES
    return max(min(max(total // PARTS, SMALL_BYTES // 4), LARGE_BYTES), total // MOST_PARTS)


def cut(
    sources: Sequence[InputSource],
    splits: Sequence[str | None],
    *,
    document: DocumentUnit,
    encoding: str | None,
    executor: Executor,
    size: int | None = None,
) -> list[Part]:
    """The parts of the inputs, in order. `size`: bytes of a part; default: `part_bytes` of all of them.

    Lines of UTF-8 files that are not compressed are cut, where a line is a record: JSONL, and text by lines.
    """
    sizes = [sum(path.stat().st_size for path in source.paths) for source in sources]
    size = size or part_bytes(sum(sizes))
    parts: list[Part] = []
    held: list[tuple[InputSource, str | None]] = []
    held_bytes = 0

    def flush() -> None:
        nonlocal held_bytes
        if held:
            parts.append(Part(len(parts), tuple(each for each, _ in held), tuple(split for _, split in held)))
            held.clear()
            held_bytes = 0

    for source, split, each in zip(sources, splits, sizes, strict=True):
        pieces = _pieces(source, each, size, executor) if _by_lines(source, document, encoding) else [source]
        for piece in pieces:
            held.append((piece, split))
            held_bytes += each // len(pieces)
            if held_bytes >= size or len(pieces) > 1:
                flush()
    flush()
    return parts


def _by_lines(source: InputSource, document: DocumentUnit, encoding: str | None) -> bool:
    """Whether a record is a line, and a byte 0x0A its end."""
    if source.path is None or not (source.format == "jsonl" or (source.format == "text" and document == "line")):
        return False
    if codecs.lookup(encoding or "utf-8").name != "utf-8" or compression_of(source.path.name):
        return False
    if not source.path.is_file():
        return False
    with source.path.open("rb") as file:
        head = file.read(PEEKED_BYTES)
    if source.format == "jsonl" and is_one_value(head.decode("utf-8", "replace")):
        return False
    utf16 = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or head.count(0) * 3 > len(head)
    return head[:2] not in COMPRESSED and not utf16


def _pieces(source: InputSource, total: int, size: int, executor: Executor) -> list[InputSource]:
    """The source cut after the first line end behind each multiple of `size`; into one piece if it is that small."""
    assert source.path is not None
    cuts = [0]
    with source.path.open("rb") as file:
        for wanted in range(size, total - size // 2, size):
            end = _line_end(file, max(wanted, cuts[-1]))
            if end is None or end >= total:
                break
            if end > cuts[-1]:
                cuts.append(end)
    if len(cuts) == 1:
        return [source]
    ranges = [_Range(source.path, start, stop) for start, stop in itertools.pairwise(cuts)]
    lines = itertools.accumulate(executor.map(count_lines, ranges), initial=1)
    stops = [*cuts[1:], None]
    return [
        replace(source, start=start, stop=stop, first_line=line, named=False)
        for start, stop, line in zip(cuts, stops, lines, strict=True)
    ]


def _line_end(file: IO[bytes], start: int) -> int | None:
    """The place behind the first line feed from `start` on; None: there is none within the longest line."""
    file.seek(start)
    place = start
    while place - start <= 4 * LIMITS.record_characters and (block := file.read(1 << 16)):
        if (found := block.find(b"\n")) >= 0:
            return place + found + 1
        place += len(block)
    return None


def count_lines(part: _Range) -> int:
    """The line ends in some bytes of a file: LF, CR and CR LF, as `decode.py` counts them."""
    found, after_return = 0, False
    for block in _blocks(part):
        found += block.count(b"\n")
        if b"\r" in block or after_return:
            found += block.count(b"\r") - block.count(b"\r\n") - (after_return and block.startswith(b"\n"))
            after_return = block.endswith(b"\r")
    return found


def _blocks(part: _Range) -> Iterator[bytes]:
    with part.path.open("rb") as file:
        file.seek(part.start)
        while block := file.read(min(LIMITS.block_bytes, part.stop - file.tell())):
            yield block
