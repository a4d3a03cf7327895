"""The headers of safetensors files: names, types and shapes of the weights, without reading a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from llmctl.errors import IntegrityError
from llmctl.store.border import border
from llmctl.store.safety import parse_object

LONGEST_HEADER: Final = 100_000_000
"""Largest header of a safetensors file, in bytes; the limit is part of the format."""
MOST_TENSORS: Final = 100_000
"""Most tensors of a model; published ones with hundreds of experts have up to 70,000."""


class Weight(NamedTuple):
    """A tensor in a file. `dtype`: as the format spells it, such as F32, BF16, I64, BOOL."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers or truth values."""
        return self.dtype == "BOOL" or self.dtype.startswith(("I", "U"))

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


def headers(folder: Path) -> dict[str, Weight]:
    """The weights in a folder by name. Raises `IntegrityError` for an invalid header."""
    found: dict[str, Weight] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with border("cannot be opened", path), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(LONGEST_HEADER, path.stat().st_size - 8):
                raise IntegrityError(
                    "cannot be opened: the length of its header exceeds the file or the format's limit", where=str(path)
                )
            header = parse_object(file.read(size), path)
        found |= {
            name: Weight(str(each.get("dtype")), tuple(each["shape"]))
            for name, each in header.items()
            if _has_shape(each)
        }
        if len(found) > MOST_TENSORS:
            raise IntegrityError(f"more than {MOST_TENSORS:,} tensors", where=str(path), hint="copy the folder again")
    return found


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a folder. Raises `IntegrityError` for an invalid header."""
    return {name: each.shape for name, each in headers(folder).items()}


def _has_shape(entry: Any) -> bool:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
