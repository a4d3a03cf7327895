"""How long the records of a split are, read from its token store without numpy: for verbs that must answer at once."""

from __future__ import annotations

import ast
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from llmctl.errors import IntegrityError

MAGIC: Final = b"\x93NUMPY"
LOOKED_AT: Final = 100_000
"""Records that are looked at, spread evenly over the split, where it has more."""


class Lengths(NamedTuple):
    """Tokens of text in the records of a split, control tokens not counted."""

    records: int
    tokens: int
    longest_given: int
    """The most tokens that a record gives: everything that is not learned."""
    longest_learned: int
    longest: int
    """The most tokens that a record has in all."""
    learned: int
    """Tokens that are learned, in all."""


def lengths(folder: Path, split: str) -> Lengths:
    """Of `folder`/`split`.*.npy. Raises `IntegrityError` where a file is no such array."""
    segments = _read(folder / f"{split}.segments.npy", "q")
    records = _read(folder / f"{split}.records.npy", "q")
    roles = _read(folder / f"{split}.roles.npy", "B")
    count = len(records) - 1
    step = max(1, count // LOOKED_AT)
    given_most = learned_most = longest = learned_all = seen = 0
    for record in range(0, count, step):
        given = learned = 0
        for each in range(records[record], records[record + 1]):
            size = segments[each + 1] - segments[each]
            if roles[each] & 0x80:
                learned += size
            else:
                given += size
        given_most, learned_most = max(given_most, given), max(learned_most, learned)
        longest = max(longest, given + learned)
        learned_all, seen = learned_all + learned, seen + 1
    scale = count / seen if seen else 0.0
    return Lengths(
        count, segments[-1] if segments else 0, given_most, learned_most, longest, round(learned_all * scale)
    )


def _read(path: Path, kind: str) -> Sequence[int]:
    """A one-dimensional array of that type code, after the format of `numpy.lib.format`, versions 1 to 3."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = int.from_bytes(file.read(2 if head[6:7] == b"\x01" else 4), "little")
            described = ast.literal_eval(file.read(size).decode("latin-1"))
            found = array(kind)
            if head[:6] != MAGIC or described["descr"] not in (f"<i{found.itemsize}", "|u1"):
                raise ValueError("not an array of the kind that preprocess writes")
            found.frombytes(file.read())
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"cannot be opened as an array: {error}", where=str(path), hint="preprocess again, with --force"
        ) from error
    if sys.byteorder == "big":
        found.byteswap()
    return found
