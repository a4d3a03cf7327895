"""Which split a record belongs to, and whether it was seen before: by the hash of its cleaned content alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.data.spec import Splits


def content_hash(fields: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    """16 bytes that stand for the values of these columns, whatever file, line, id or order they came in."""
    values = [fields.get(name) for name in columns]
    # One text is by far the most frequent content: no need to spell it as JSON.
    text = values[0] if len(values) == 1 and isinstance(values[0], str) else json.dumps(values, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"llmctl-content").digest()


def split_of(digest: bytes, splits: Splits) -> str:
    """`test`, `validation` or `train`: the hash read as a number in [0, 1), cut at the fractions.

    Test comes first, so that neither more data nor another validation fraction moves a record into or out of it.
    """
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < splits.test:
        return "test"
    return "validation" if share < splits.test + splits.validation else "train"


class Deduplicator:
    """Contents and ids met so far."""

    def __init__(self) -> None:
        self._contents: set[bytes] = set()
        self._ids: dict[bytes, bytes] = {}

    def content(self, digest: bytes) -> bool:
        """Whether this content was met before; from now on it was."""
        before = len(self._contents)
        self._contents.add(digest)
        return len(self._contents) == before

    def conflict(self, name: str, digest: bytes) -> bool:
        """Whether this id stood for other content before."""
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        return self._ids.setdefault(key, digest) != digest
