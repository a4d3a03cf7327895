"""`metrics.jsonl` while a run writes it: rows are appended, counted and hashed, so that a checkpoint can vouch for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from llmctl.store import atomic, runs
from llmctl.training.trackers import Trackers


class History:
    """The rows of a run, open for appending; each is also sent to the trackers."""

    def __init__(self, run: Path, trackers: Trackers) -> None:
        self._path, self.trackers = run / runs.METRICS, trackers
        self._file: IO[str] | None = None
        self._hash = hashlib.sha256()
        self._rows = 0

    def restore(self, rows: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], step: int) -> str | None:
        """Keep the rows that were written before the checkpoint of `step`; later ones are written again.

        `mark`: the checkpoint's; empty if version 0.1 wrote it. Returns what is wrong with the rows, None if nothing is.
        """
        if mark and len(rows) >= mark["rows"] and _hash(rows[: mark["rows"]]).hexdigest() == mark["sha256"]:
            self._write(rows[: mark["rows"]])
            return None
        kept = [row for row in rows if row["step"] <= step]
        self._write(kept)
        if not mark:
            return None
        return (
            f"{self._path} was damaged or changed after step {step:,}: {len(kept):,} readable rows up to that step, "
            f"{mark['rows']:,} were written; the history stays incomplete, the training does not depend on it"
        )

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._hash, self._rows = _hash(rows), len(rows)
        atomic.write_text(self._path, "".join(map(_line, rows)))

    def add(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = _line(row)
        self._hash.update(line.encode())
        self._rows += 1
        self._file.write(line)
        self._file.flush()
        self.trackers.add(row)

    def mark(self) -> dict[str, Any]:
        """The number of rows so far and their hash, for the state of a checkpoint."""
        return {"rows": self._rows, "sha256": self._hash.hexdigest()}

    def __enter__(self) -> Self:
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self.trackers.finish()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _hash(rows: Sequence[Mapping[str, Any]]) -> Any:
    return hashlib.sha256("".join(map(_line, rows)).encode())
