"""Handle bad records: stop `preprocess` at the first one, drop them, or write them to a file beside the data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import IO, Final, Literal, Self

from llmctl.data.filter import ConflictingId
from llmctl.data.formats import Bad
from llmctl.errors import DataError
from llmctl.types import Record
from llmctl.workflows.preprocess.checks import with_hint

REJECTS: Final = "rejects.jsonl"
SAME_IDS_SHOWN: Final = 5


class BadRecords:
    """Counts bad records and writes them to a file. Use it as a context manager, which closes the file."""

    def __init__(self, policy: Literal["fail", "skip", "reject"], folder: Path, dropped: Counter[str]) -> None:
        """`skip` counts them in `dropped`; `reject` writes them to `folder`/rejects.jsonl."""
        self.rejected = 0
        self._dropped = dropped
        self._fails = policy == "fail"
        self._same_ids: list[DataError] = []
        self._file: IO[str] | None = None
        if policy == "reject":
            # Bytes that could not be decoded are written as escapes.
            self._file = (folder / REJECTS).open("w", encoding="utf-8", errors="backslashreplace", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, error: DataError, item: Record | Bad) -> None:
        """Add a bad record. Raises `DataError` if that stops the verb; ids used for different content are collected
        first, so that several are reported at once."""
        if self._fails and isinstance(error, ConflictingId):
            self._same_ids.append(error)
            if len(self._same_ids) == SAME_IDS_SHOWN:
                self.end()
        elif self._fails:
            raise with_hint(error)
        elif self._file is None:
            self._dropped["bad_record"] += 1
        else:
            self.rejected += 1
            raw = item.raw if isinstance(item, Bad) else item.fields
            row = {"where": error.where, "reason": error.message, "record": raw}
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def end(self) -> None:
        """After the last record: raise `DataError` for ids used for different content."""
        if self._same_ids:
            places = "; ".join(f"{error.where} {error.message.split(' stood')[0]}" for error in self._same_ids)
            raise DataError(f"one id for different content: {places}", hint=self._same_ids[0].hint)
