"""Checks the lengths in a GGUF file against its size, before the library gguf reads it.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: GGUF, version, number of tensors,
number of entries, the entries (key, type, value), the tensors' names and shapes. Every text and array states its length,
and the library makes a list of that length before it looks at the data.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Final

from llmctl.errors import IntegrityError

_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each type with a fixed size."""
_TEXT, _ARRAY = 8, 9
MOST_DEPTH: Final = 8
"""Arrays within arrays; llama.cpp writes none."""
_COUNTED: Final = (b".block_count", b".expert_count", b".head_count")
"""Keys whose number says how many modules are built, one by one."""
LEAST_COUNT: Final = 1024
LEAST_ENTRY, LEAST_TENSOR = 13, 24
"""Bytes of the shortest entry and tensor description."""


def check_header(file: Path) -> None:
    """Raise `IntegrityError` where a length or count exceeds what the rest of the file can hold."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        _Reader(opened, size, file).header()


class _Reader:
    def __init__(self, opened: IO[bytes], size: int, path: Path) -> None:
        self.opened, self.size, self.path = opened, size, path

    def header(self) -> None:
        self.opened.seek(4)  # the magic, checked by the caller
        (version,) = struct.unpack("<I", self.opened.read(4).ljust(4, b"\0"))
        if version not in (2, 3):
            raise self._fault(f"version {version} of the format; versions 2 and 3 can be read")
        tensors, entries = self._count(LEAST_TENSOR, "tensors"), self._count(LEAST_ENTRY, "entries")
        for _ in range(entries):
            key, kind = self.opened.read(self._count(1, "letters of a key")), self._number(4)
            start = self.opened.tell()
            self._value(kind, 0)
            if key.endswith(_COUNTED) and kind in _BYTES:
                end = self.opened.tell()
                self.opened.seek(start)
                count = self._number(end - start)
                if count > max(LEAST_COUNT, tensors):
                    name = key.decode(errors="replace")
                    raise self._fault(f"{name} is {count:,}, but the file has {tensors:,} tensors")
        for _ in range(tensors):
            self._skip(self._count(1, "letters of a name"))
            self._skip(8 * self._bounded(self._number(4), 8, "dimensions") + 12)

    def _value(self, kind: int, depth: int) -> None:
        """Pass over a value."""
        if kind in _BYTES:
            self._skip(_BYTES[kind])
        elif kind == _TEXT:
            self._skip(self._count(1, "letters of a text"))
        elif kind == _ARRAY and depth < MOST_DEPTH:
            kind = self._number(4)
            each = _BYTES.get(kind, 8)
            length = self._count(each, "values of an array")
            if kind in _BYTES:
                self._skip(each * length)
                return
            for _ in range(length):
                self._value(kind, depth + 1)
        else:
            raise self._fault(f"an entry of the unknown type {kind}")

    def _number(self, width: int) -> int:
        data = self.opened.read(width)
        if len(data) < width:
            raise self._fault("the file is cut off")
        return int.from_bytes(data, "little")

    def _count(self, each: int, what: str) -> int:
        """A count of things that take at least `each` bytes."""
        return self._bounded(self._number(8), each, what)

    def _bounded(self, count: int, each: int, what: str) -> int:
        if count * each > self.size - self.opened.tell():
            raise self._fault(f"states {count:,} {what}, more than the rest of the file can hold")
        return count

    def _skip(self, count: int) -> None:
        self._bounded(count, 1, "bytes")
        self.opened.seek(count, 1)

    def _fault(self, message: str) -> IntegrityError:
        return IntegrityError(
            f"the GGUF file cannot be read: {message}", where=str(self.path), hint="copy or download the file again"
        )
