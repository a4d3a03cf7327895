"""How long the records of a split are, read from its token store without numpy: for verbs that must answer at once."""

from __future__ import annotations

import ast
import functools
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, get_args

from llmctl.data.spec import CHAT_ROLES, LEARNED
from llmctl.errors import IntegrityError
from llmctl.types import Role

MAGIC: Final = b"\x93NUMPY"
LOOKED_AT: Final = 100_000
"""Records that are looked at, spread evenly over the split, where it has more."""


_TURNS: Final = frozenset(get_args(Role).index(role) for role in CHAT_ROLES)
"""A segment's role where it is a turn of a conversation."""


class Lengths(NamedTuple):
    """How long the records of a split are.

    Marks are the control tokens that are put around texts (`data/layout.py`): one for each text, two for each turn of a
    conversation. What begins a sequence is not among them.
    """

    records: int
    tokens: int
    """Tokens of text, in all."""
    learned: int
    """Those of them that are learned."""
    marks: int
    """Marks, in all."""
    longest_given: int
    """The most tokens that a record gives (everything that is not learned), with their marks."""
    longest_learned: int
    """The most that are learned of a record, with their marks."""
    longest: int
    """The most tokens that a record has, with their marks."""


def lengths(folder: Path, split: str) -> Lengths:
    """Of `folder`/`split`.*.npy. Raises `IntegrityError` where a file is no such array or does not fit the others."""
    paths = [folder / f"{split}.{part}.npy" for part in ("segments", "records", "roles")]
    try:
        versions = tuple((each.stat().st_ino, each.stat().st_mtime_ns) for each in paths)
    except OSError as error:
        raise _unsound(str(error), folder / split) from error
    return _lengths(*paths, versions)


@functools.lru_cache(maxsize=4)
def _lengths(
    segments_path: Path, records_path: Path, roles_path: Path, _versions: tuple[tuple[int, int], ...]
) -> Lengths:
    """Read once for all the forecasts that are made of the same files: `suggest` makes some forty."""
    segments, records, roles = _read(segments_path, "<i8"), _read(records_path, "<i8"), _read(roles_path, "|u1")
    if not records or records[-1] != len(roles) or len(segments) != len(roles) + 1:
        raise _unsound("the arrays do not fit each other", segments_path)
    count = len(records) - 1
    step = max(1, count // LOOKED_AT)
    given_most = learned_most = longest = learned_all = marks_all = seen = 0
    for record in range(0, count, step):
        given = learned = marks_given = marks_learned = 0
        for each in range(records[record], records[record + 1]):
            size = segments[each + 1] - segments[each]
            marks = 2 if roles[each] & ~LEARNED in _TURNS else 1
            if roles[each] & LEARNED:
                learned, marks_learned = learned + size, marks_learned + marks
            else:
                given, marks_given = given + size, marks_given + marks
        learned_all, marks_all, seen = learned_all + learned, marks_all + marks_given + marks_learned, seen + 1
        given, learned = given + marks_given, learned + marks_learned
        given_most, learned_most = max(given_most, given), max(learned_most, learned)
        longest = max(longest, given + learned)
    scale = count / seen if seen else 0.0
    return Lengths(
        records=count,
        tokens=segments[-1],
        learned=round(learned_all * scale),
        marks=round(marks_all * scale),
        longest_given=given_most,
        longest_learned=learned_most,
        longest=longest,
    )


_CODES: Final = {"<i8": "q", "|u1": "B"}
"""Kinds of numbers by numpy's name and by that of `array`."""


def _read(path: Path, kind: str) -> Sequence[int]:
    """A one-dimensional array of that kind, after the format of `numpy.lib.format`, versions 1 to 3."""
    found = array(_CODES[kind])
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = int.from_bytes(file.read(2 if head[6:7] == b"\x01" else 4), "little")
            described = ast.literal_eval(file.read(size).decode("latin-1"))
            found.frombytes(file.read())
        if head[:6] != MAGIC or described["descr"] != kind or described["shape"] != (len(found),):
            raise ValueError("not an array as preprocess writes it")
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise _unsound(f"cannot be opened as an array: {error}", path) from error
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _unsound(problem: str, path: Path) -> IntegrityError:
    return IntegrityError(problem, where=str(path), hint="preprocess again, with --force")
