"""What becomes of records that are refused: the first one stops `preprocess`, or they are dropped or kept beside the data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import IO, Final, Literal, Self

from llmctl.data.filter import ConflictingId
from llmctl.data.formats import Bad
from llmctl.errors import DataError
from llmctl.types import Record
from llmctl.workflows.preprocess.checks import with_way_out

REJECTS: Final = "rejects.jsonl"
SAME_IDS_SHOWN: Final = 5


class BadRecords:
    """Counts and keeps refused records. A `with` block around all of them closes the file that keeps them."""

    def __init__(self, policy: Literal["fail", "skip", "reject"], folder: Path, dropped: Counter[str]) -> None:
        """`skip` counts them in `dropped`, `reject` keeps them in `folder`/rejects.jsonl."""
        self.rejected = 0
        self._dropped = dropped
        self._fails = policy == "fail"
        self._same_ids: list[DataError] = []
        self._file: IO[str] | None = None
        if policy == "reject":
            # What could not be decoded is written as the escape of its byte.
            self._file = (folder / REJECTS).open("w", encoding="utf-8", errors="backslashreplace", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, error: DataError, item: Record | Bad) -> None:
        """Take a refused record. Raises `DataError` where it ends the verb: ids that stand for different content are
        collected, so that several of them are told at once."""
        if self._fails and isinstance(error, ConflictingId):
            self._same_ids.append(error)
            if len(self._same_ids) == SAME_IDS_SHOWN:
                self.end()
        elif self._fails:
            raise with_way_out(error)
        elif self._file is None:
            self._dropped["bad_record"] += 1
        else:
            self.rejected += 1
            raw = item.raw if isinstance(item, Bad) else item.fields
            row = {"where": error.where, "reason": error.message, "record": raw}
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def end(self) -> None:
        """After the last record: raise `DataError` for ids that stood for different content."""
        if self._same_ids:
            places = "; ".join(f"{error.where} {error.message.split(' stood')[0]}" for error in self._same_ids)
            raise DataError(f"one id for different content: {places}", hint=self._same_ids[0].hint)
