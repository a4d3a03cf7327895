"""Assigns records to splits and detects duplicates, by the hash of the cleaned content alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.data.spec import Splits


def content_hash(fields: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    """A 16-byte hash of the values of these columns; independent of file, line, id and the order of fields."""
    values = [fields.get(name) for name in columns]
    # A single text is by far the most frequent content and needs no JSON.
    text = values[0] if len(values) == 1 and isinstance(values[0], str) else json.dumps(values, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"llmctl-content").digest()


def split_of(digest: bytes, splits: Splits) -> str:
    """`test`, `validation` or `train`: the hash as a number in [0, 1), compared with the fractions.

    Test comes first, so that neither more data nor another validation fraction moves a record into or out of it.
    """
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < splits.test:
        return "test"
    return "validation" if share < splits.test + splits.validation else "train"


class Deduplicator:
    """Remembers the contents and ids seen so far."""

    def __init__(self) -> None:
        self._contents: set[bytes] = set()
        self._ids: dict[bytes, bytes] = {}

    def content(self, digest: bytes) -> bool:
        """Whether this content was seen before; records it."""
        before = len(self._contents)
        self._contents.add(digest)
        return len(self._contents) == before

    def conflict(self, name: str, digest: bytes) -> bool:
        """Whether this id was seen before with other content; records it."""
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        return self._ids.setdefault(key, digest) != digest
