"""Handle bad records: stop `preprocess` at the first one, drop them, or write them to a file beside the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

from llmctl.data.reading.formats import Bad
from llmctl.errors import DataError
from llmctl.types import Record
from llmctl.workflows.preprocess.context import with_hint

REJECTS: Final = "rejects.jsonl"
Policy = Literal["fail", "skip", "reject"]


class BadRecords:
    """Counts bad records and writes them to a file. Use it as a context manager, which closes the file."""

    def __init__(self, policy: Policy, path: Path, dropped: Counter[str]) -> None:
        """`skip` counts them in `dropped`; `reject` appends them to `path`."""
        self.rejected = 0
        self._dropped = dropped
        self._fails = policy == "fail"
        self._file: IO[str] | None = None
        if policy == "reject":
            # Bytes that could not be decoded are written as escapes.
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, error: DataError, item: Record | Bad) -> None:
        """Add a bad record. Raises `DataError` if that stops the verb."""
        if self._fails:
            raise with_hint(error)
        if self._file is None:
            self._dropped["bad_record"] += 1
        else:
            self.rejected += 1
            raw: Any = item.raw if isinstance(item, Bad) else item.fields
            row = {"where": error.where, "reason": error.message, "record": raw}
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def same_id(record: Record) -> DataError:
    """The error of a record with the id of an earlier one and other content."""
    return DataError(
        f"another record with different content has the id {record.id!r}",
        where=f"{record.origin}:id",
        hint="make ids unique, leave them out (--columns id=none; ids are then derived from the content), or use "
        "--on-bad-record skip to keep the first record of each id",
    )


def same_ids(records: Sequence[Record]) -> DataError:
    """One error for the first records with the id of an earlier one and other content."""
    errors = [same_id(record) for record in records]
    places = "; ".join(f"{error.where} {error.message}" for error in errors)
    return DataError(f"one id for different content: {places}", hint=errors[0].hint)
