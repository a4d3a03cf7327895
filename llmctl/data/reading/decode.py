"""From bytes to lines: decompresses, decodes and splits text, all in bounded memory.

A line ends at LF, CR or CR LF and nowhere else: U+2028, U+0085 and the vertical tab do not end one.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmctl.errors import DataError, EnvironmentFault

BOMB_RATIO: Final = 500
"""Largest accepted compression ratio. gzip reaches 1,030 on zeros; prose compresses 2 to 4 times, repetitive logs
about 100 times."""


class Limits(NamedTuple):
    """Limits on memory and on decompressed size."""

    block_bytes: int = 1 << 20
    record_characters: int = 32 << 20
    """Most characters of one line or document."""
    bomb_floor: int = 64 << 20
    """Up to this many decompressed bytes any compression ratio is accepted."""


LIMITS: Final = Limits()

ENCODINGS: Final = "latin1, cp1252, gb18030, utf-16, …"
"""Examples of encoding names that both Python and iconv accept."""

_ESCAPED: Final = re.compile("[\udc80-\udcff]")
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]+")
_NEWLINE: Final = re.compile(r"\r\n|\r|\n")


def compression_of(name: str) -> str:
    """`gz`, `zst` or an empty string, by the ending of the name."""
    ending = name.lower().rpartition(".")[2]
    return ending if ending in ("gz", "zst") else ""


COMPRESSED: Final = {b"\x1f\x8b": "gz", b"\x28\xb5": "zst"}
"""The first bytes of compressed files, whatever their names end in."""
LFS: Final = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a file that `git clone` leaves where Git LFS is not installed."""
KINDS: Final = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"{\\rtf", "an RTF document"),
    (b"PK\x03\x04", "a zip archive (or a Word, Excel, OpenDocument or EPUB file)"),
    (b"\xd0\xcf\x11\xe0", "an old Word or Excel file"),
    (b"PAR1", "a Parquet file; give it the ending .parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WAV, AVI or WebP file"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a GGUF model"),
    (b"\x93NUMPY", "a NumPy array"),
    (LFS, "a pointer of Git LFS, not the file itself"),
    (b"\x89HDF", "an HDF5 file"),
)
"""First bytes of files that are no text, and what such a file is."""
TEXTUAL: Final = (b"%PDF-", b"%!PS", b"{\\rtf", b"PK\x03\x04", LFS)
"""Those of `KINDS` that need no more evidence."""
PEEKED_BYTES: Final = 4096
"""Bytes at the start of a file by which its kind is found."""
MARK_BYTES: Final = 8
"""The longest of them, and of byte-order marks: what a pipe gives first may be shorter."""


def refuse_foreign(block: bytes, name: str) -> None:
    """Raise `DataError` if these first bytes are those of a file that is no text."""
    kind = next((what for mark, what in KINDS if block.startswith(mark)), None)
    # A text may begin with the letters of some marks, but it has no NUL so early.
    if kind is not None and (block.startswith(TEXTUAL) or 0 in block[:1024]):
        fetch = "fetch it: git lfs install && git lfs pull"
        hint = fetch if block.startswith(LFS) else "convert it to text, JSONL, CSV or Parquet"
        raise DataError(f"not text: it is {kind}", where=name, hint=hint)


def blocks(
    path: Path | None, name: str, limits: Limits = LIMITS, *, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    """The decompressed bytes of a file, or of standard input for None, in blocks of at most `limits.block_bytes`: what a pipe
    holds is not held back until there is more.

    `start`, `stop`: only these bytes of a file that is not compressed. Raises `DataError` for damaged or truncated compressed data, `EnvironmentFault` for a decompression bomb.
    """
    if path is None:
        if sys.stdin is None:
            raise EnvironmentFault("standard input is closed", hint="name a file, or pipe data in")
        pipe: Any = sys.stdin.buffer
        block = pipe.read(MARK_BYTES) + pipe.read1(limits.block_bytes)
        refuse_foreign(block, name)
        while block:
            yield block
            block = pipe.read1(limits.block_bytes)
        return
    try:
        with path.open("rb") as file:
            if start or stop is not None:
                yield from _between(file, start, stop, limits.block_bytes)
            else:
                yield from _unpacked(file, path, name, limits)
    except PermissionError as error:
        raise EnvironmentFault(f"cannot read {name}: {error.strerror}", hint="change its permissions") from error


def _between(file: io.BufferedReader, start: int, stop: int | None, size: int) -> Iterator[bytes]:
    file.seek(start)
    while block := file.read(size if stop is None else min(size, stop - file.tell())):
        yield block


def _reader(file: io.BufferedReader, compression: str) -> tuple[Callable[[int], bytes], tuple[type[Exception], ...]]:
    """What reads the decompressed bytes of a file, and what it raises for data that is damaged."""
    if compression == "gz":
        import gzip

        return gzip.GzipFile(fileobj=file).read, (EOFError, gzip.BadGzipFile, zlib.error)
    if compression == "zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd").read, (OSError,)
    return file.read, ()


def _begins_as_bomb(path: Path, compression: str, limits: Limits) -> bool:
    """Whether the first `bomb_floor` bytes come from so few that the file is a bomb. Nothing is parsed, so the answer takes a
    fraction of a second; reading the lines of a bomb takes minutes."""
    with path.open("rb") as file:
        read, failures = _reader(file, compression)
        unpacked = 0
        while unpacked <= limits.bomb_floor and file.tell() * BOMB_RATIO <= limits.bomb_floor:
            try:
                block = read(limits.block_bytes)
            except failures:
                return False  # reading it says what is wrong
            if not block:
                return False
            unpacked += len(block)
        return unpacked > limits.bomb_floor


def _bomb(what: str, name: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{what} to more than {BOMB_RATIO} times their size",
        where=name,
        hint="if you trust the file, decompress it yourself",
    )


def _unpacked(file: io.BufferedReader, path: Path, name: str, limits: Limits) -> Iterator[bytes]:
    compression = compression_of(path.name) or COMPRESSED.get(file.peek(2)[:2], "")
    if compression and path.is_file() and _begins_as_bomb(path, compression, limits):
        raise _bomb("the file begins with bytes that decompress", name)
    read, failures = _reader(file, compression)
    packed, unpacked = path.stat().st_size, 0
    while True:
        try:
            block = read(limits.block_bytes)
        except failures as error:
            cut = isinstance(error, EOFError) or "runcated" in str(error)
            problem = "the compressed data is truncated" if cut else f"not a valid .{compression} file: {error}"
            raise DataError(problem, where=name, hint="copy or download the file again") from error
        if not block:
            return
        if unpacked == 0 and path.suffix != ".parquet" and not path.name.endswith((".parquet.gz", ".parquet.zst")):
            refuse_foreign(block, name)
        unpacked += len(block)
        if compression and unpacked > limits.bomb_floor and unpacked > BOMB_RATIO * packed:
            raise _bomb(f"{packed:,} bytes decompress", name)
        yield block


class Text:
    """The characters of one input, decoded strictly: a byte that cannot be decoded makes its line an error."""

    def __init__(
        self,
        source: Iterator[bytes],
        name: str,
        encoding: str | None = None,
        limits: Limits = LIMITS,
        *,
        first_line: int = 1,
    ) -> None:
        """`encoding`: None means UTF-8 in a verb without an `--encoding` option; errors then show how to convert.
        `first_line`: the number of the line that the source starts with; above 1 it is the middle of a file."""
        self._first_line = first_line
        self.name, self.limits = name, limits
        self.encoding = encoding or "utf-8"
        self._has_option = encoding is not None
        self.faulty = False
        """Whether any byte so far could not be decoded; only then do lines have to be checked."""
        self.had_bom = False
        self._source = source

    def characters(self) -> Iterator[str]:
        """Decoded blocks. A byte that cannot be decoded becomes a lone surrogate (PEP 383)."""
        decoder: Any = codecs.getincrementaldecoder(self.encoding)("strict")
        first = self._first_line == 1
        for block in self._source:
            if first and self._is_utf16(block):
                self.encoding, decoder = "utf-16", codecs.getincrementaldecoder("utf-16")("strict")
                self.had_bom, first = True, False
            text = self._decode(decoder, block, final=False)
            if first and text:
                first = False
                if text[0] == "\ufeff":
                    self.had_bom = True
                    text = text[1:]
            yield text
        yield self._decode(decoder, b"", final=True)

    def begins(self, test: Callable[[str], bool]) -> bool:
        """Whether the first block passes a test; the bytes stay to be read."""
        first = next(self._source, b"")
        self._source = itertools.chain([first], self._source)
        return test(codecs.getincrementaldecoder(self.encoding)("replace").decode(first[:PEEKED_BYTES]))

    def lines(self, *, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
        """(line number, line), counted from 1. Raises `EnvironmentFault` for a line longer than the limit."""
        newlines: Any = io.IncrementalNewlineDecoder(None, translate=not keep_ends)
        number, pending, size = self._first_line, [""], 0
        for block in self.characters():
            complete, rest = _cut(newlines.decode(block), keep_ends)
            if complete:
                complete[0] = "".join((*pending, complete[0]))
                pending, size = [], 0
                for line in complete:
                    yield number, line
                    number += 1
            pending.append(rest)
            size += len(rest)
            if size > self.limits.record_characters:
                raise self.too_long("line", f"{self.name}:{number}")
        complete, rest = _cut(newlines.decode("", final=True), keep_ends)
        if complete:
            yield number, "".join((*pending, complete[0]))
            pending = []
        if last := "".join((*pending, rest)):
            yield number + len(complete), last

    def all(self) -> str:
        """The full text, with newlines as LF. Raises `EnvironmentFault` if it is longer than the limit."""
        newlines: Any = io.IncrementalNewlineDecoder(None, translate=True)
        pieces, size = [], 0
        for block in self.characters():
            pieces.append(newlines.decode(block))
            size += len(pieces[-1])
            if size > self.limits.record_characters:
                raise self.too_long("document", self.name)
        return "".join((*pieces, newlines.decode("", final=True)))

    def too_long(self, noun: str, where: str) -> EnvironmentFault:
        """The error for a line or document longer than the limit."""
        return EnvironmentFault(
            f"the {noun} is longer than {self.limits.record_characters:,} characters, the limit that keeps memory bounded",
            where=where,
            hint="split it into smaller records; for plain text: preprocess --document paragraph or line",
        )

    def fault(self, number: int, text: str) -> DataError | None:
        """The error in a text that starts at line `number`; None if all of it could be decoded."""
        found = _ESCAPED.search(text) if self.faulty else None
        if found is None:
            return None
        before = text[: found.start()]
        line, column = number + before.count("\n"), found.start() - before.rfind("\n")
        chinese = codecs.lookup(self.encoding).name == "utf-8" and _is_chinese(text.encode("utf-8", "surrogateescape"))
        seems = "; it looks like Chinese in GB 18030" if chinese else ""
        return DataError(
            f"the byte \\x{ord(found[0]) - 0xDC00:02x} is not valid {self.encoding}{seems}",
            where=f"{self.name}:{line}:{column}",
            hint=self._encoding_hint("gb18030" if chinese else None),
        )

    def _decode(self, decoder: Any, block: bytes, *, final: bool) -> str:
        state = decoder.getstate()
        try:
            return str(decoder.decode(block, final))
        except UnicodeError:
            self.faulty = True
        lenient: Any = codecs.getincrementaldecoder(self.encoding)("surrogateescape")
        lenient.setstate(state)
        try:
            text = str(lenient.decode(block, final))
        except UnicodeError as error:
            raise DataError(
                f"not valid {self.encoding}: {getattr(error, 'reason', error)}",
                where=self.name,
                hint=self._encoding_hint(f"utf-8, {ENCODINGS}"),
            ) from error
        decoder.setstate(lenient.getstate())
        return text

    def _is_utf16(self, block: bytes) -> bool:
        """Whether the first block of a UTF-8 input has the byte-order mark of UTF-16. Raises `DataError` if it looks like
        UTF-16 without one, which would make every line bad."""
        if codecs.lookup(self.encoding).name != "utf-8":
            return False
        if block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return True
        if block[:4096].count(0) * 3 > len(block[:4096]) > 8:
            column = block.index(0) + 1
            found = "utf-16be" if column % 2 else "utf-16le"
            raise DataError(
                f"the byte \\x{block[column - 1]:02x} is not utf-8 text; the file looks like UTF-16",
                where=f"{self.name}:1:{column}",
                hint=self._encoding_hint(found),
            )
        return False

    def _encoding_hint(self, found: str | None = None) -> str:
        """How to read or convert a file in another encoding; `found` is its name if detected."""
        if self._has_option:
            return f"specify the file's encoding: --encoding {found or ENCODINGS}"
        ending, compression = self.name.lower(), compression_of(self.name)
        if compression:
            ending = ending.removesuffix(f".{compression}")
        unpack = {"gz": "gzip -dc FILE | ", "zst": "zstd -dc FILE | "}.get(compression, "")
        command = (
            f"{unpack}iconv -f {found or 'ENCODING'} -t utf-8{'' if unpack else ' FILE'} > NEW{Path(ending).suffix}"
        )
        return f"convert it: {command}" + ("" if found else f"; ENCODING is {ENCODINGS}")


def _is_chinese(line: bytes) -> bool:
    """Whether the bytes beyond ASCII come in pairs that are mostly Chinese characters of GB 2312."""
    runs = _BEYOND_ASCII.findall(line)
    if any(len(run) % 2 for run in runs):
        return False
    try:
        text = b"".join(runs).decode("gb2312")
    except UnicodeDecodeError:
        return False
    return sum("\u4e00" <= each <= "\u9fff" for each in text) * 2 >= len(text) > 0


def _cut(text: str, keep_ends: bool) -> tuple[list[str], str]:
    """The complete lines, and the incomplete rest."""
    if not keep_ends:
        *lines, rest = text.split("\n")
        return lines, rest
    ends = [0, *(found.end() for found in _NEWLINE.finditer(text))]
    return [text[start:end] for start, end in itertools.pairwise(ends)], text[ends[-1] :]
