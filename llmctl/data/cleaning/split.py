"""Assigns records to splits by the names of their files or by a hash, and detects duplicates by a hash of the content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from llmctl.data.spec import Splits
from llmctl.types import Audio

CONTRADICTORY: Final = "contradictory"
SEVERAL_ANSWERS: Final = "several_answers"
IN_SEVERAL_SPLITS: Final = "in_several_splits"
"""Counts of records whose input was seen before: with another label, another answer, in another split too."""

EXPECTED: Final = 20
"""A split with this many expected records is empty by chance once in e^20 times."""

_EVAL: Final = "eval"
"""Validation, or test where other files are named validation."""
_NAMES: Final = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
    "eval": _EVAL,
    "evaluation": _EVAL,
    "heldout": "test",
    "holdout": "test",
}
"""Words in the names of files and folders, and the splits that they name."""
_CHINESE: Final = {"训练": "train", "验证": "validation", "开发集": "validation", "测试": "test"}
_WORDS: Final = re.compile("[A-Za-z]+")
_CAPITALISED: Final = re.compile("(?:^[A-Za-z]|(?<=[a-z])[A-Z])[a-z]+(?=$|(?:Data|Set|Split)(?![a-z]))")
"""A part of a word like TestData that may name a split; DevOps and TestKitchen name none."""


def _split_named(name: str) -> str | None:
    """The split that a name such as `train-00000-of-00002.parquet`, `my_dev.jsonl`, `TestData` or `训练集.csv` contains, or
    `_EVAL`; None for none or several."""
    words = _WORDS.findall(name)
    words = [each.lower() for word in words for each in (word, *_CAPITALISED.findall(word))]
    found = {split for word in words if (split := _NAMES.get(word) or _NAMES.get(word.removesuffix("set")))}
    found |= {split for word, split in _CHINESE.items() if word in name}
    found = found - {_EVAL} or found
    return found.pop() if len(found) == 1 else None


def splits_of_files(files: Sequence[PurePath | None]) -> list[str | None]:
    """The split that each file's name indicates, else that of its nearest folder. A folder that holds all
    the files says nothing, because every one of them is in it. `eval` is the validation split, or the test split where
    another name is validation. Pass paths as the user sees them, and None for no file."""
    known = [path for path in files if path is not None]
    shared = _shared(known) if len(known) > 1 else len(known[0].parts) if known else 0
    named = [None if path is None else _split_named(path.name) or _folder_split(path, shared) for path in files]
    held_out = "test" if "validation" in named else "validation"
    return [held_out if split == _EVAL else split for split in named]


def _folder_split(path: PurePath, shared: int) -> str | None:
    folders = reversed(path.parts[shared:-1])
    return next(filter(None, map(_split_named, folders)), None)


def _shared(paths: Iterable[PurePath]) -> int:
    """The number of leading folders that all paths have in common."""
    return next(
        (at for at, parts in enumerate(zip(*(path.parts for path in paths), strict=False)) if len(set(parts)) > 1), 0
    )


def content_hash(fields: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    """A 16-byte hash of the values of these columns; independent of file, line, id and the order of fields."""
    # A single text is by far the most frequent content and needs no JSON.
    text = fields.get(columns[0]) if len(columns) == 1 else None
    if not isinstance(text, str):
        text = _JSON.encode([fields.get(name) for name in columns])
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"llmctl-content").digest()


def _sound(audio: Audio) -> str:
    """The content of a recording, whatever its name."""
    return hashlib.blake2b(audio.data or audio.path.encode(), digest_size=16).hexdigest()


_JSON: Final = json.JSONEncoder(ensure_ascii=False, default=_sound)


def split_of(digest: bytes, splits: Splits) -> str:
    """`test`, `validation` or `train`: the hash as a number in [0, 1), compared with the fractions.

    Test comes first, so that neither more data nor another validation fraction moves a record into or out of it. The
    records of a train split have a high hash, all of them: `splits.seed` hashes again, to divide them differently.
    """
    if splits.seed:
        digest = hashlib.blake2b(digest, digest_size=16, salt=splits.seed.to_bytes(16, "big")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < splits.test:
        return "test"
    return "validation" if share < splits.test + splits.validation else "train"


def why_empty(split: str, kept: int, splits: Splits) -> str:
    """Why a held-out split is empty: too few records, or an input that this hash divided before."""
    fraction = splits.test if split == "test" else splits.validation
    if kept * fraction < EXPECTED:
        return f"{kept:,} records are too few for its fraction"
    return (
        f"the same hash made this text a train split before; --set splits.seed={splits.seed + 1} divides it differently"
    )


def id_hash(name: str) -> bytes:
    """A 16-byte hash of a record's id."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
