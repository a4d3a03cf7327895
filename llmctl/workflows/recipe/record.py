"""The record of a recipe stage, stored with its output.

The record is `stage.json` inside an output folder, or `NAME.stage.json` next to an output file. It holds settings and
content hashes of inputs and output; a stage that matches its record need not run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, ValidationError

from llmctl import __version__
from llmctl.config import Spec
from llmctl.store import atomic, runs
from llmctl.store.prepared import MANIFEST, is_prepared

RECORD: Final = "stage.json"
ROWS: Final = "completions"
"""The field of the document that an output file already holds; it is left out of the record."""


class StageRecord(Spec):
    """`stage.json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verb: str
    llmctl: str
    config: dict[str, Any]
    inputs: dict[str, str]
    output: str
    document: dict[str, Any]
    at: str


def settings(config: Spec) -> dict[str, Any]:
    """The settings as plain JSON values, for recording and comparison."""
    found: dict[str, Any] = json.loads(config.model_dump_json())
    return found


def record_path(place: Path) -> Path:
    return place / RECORD if place.is_dir() else place.with_name(f"{place.name}.{RECORD}")


def read_record(place: Path) -> StageRecord | None:
    """Read the record of the stage that made `place`; None if it is missing or unreadable."""
    try:
        return StageRecord.model_validate(json.loads(record_path(place).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None  # not the output of a stage, or an edited record


def write_record(verb: str, config: Spec, read: Mapping[str, str], place: Path, document: Mapping[str, Any]) -> None:
    record = StageRecord(
        verb=verb,
        llmctl=__version__,
        config=settings(config),
        inputs=dict(read),
        output=fingerprint(place),
        document={name: value for name, value in document.items() if name != ROWS or not place.is_file()},
        at=runs.now(),
    )
    atomic.write_json(record_path(place), record.model_dump())


def recalled(record: StageRecord, place: Path) -> dict[str, Any]:
    """The document of the stage that made `place`; generated answers are read from the output file."""
    if not place.is_file():
        return record.document
    rows = [json.loads(line) for line in place.read_text(encoding="utf-8").split("\n") if line]
    return {ROWS: [row for row in rows if "error" not in row], **record.document}


def _claim(place: Path) -> Path:
    return place.parent / f"{atomic.TEMPORARY}{place.name}-stage"


@contextlib.contextmanager
def claimed(place: Path) -> Iterator[None]:
    """Mark `place` as the output of a stage until its record is written."""
    atomic.write_text(_claim(place), f"{os.getpid()}\n")
    try:
        yield
    except BaseException:
        if not place.exists():
            _claim(place).unlink(missing_ok=True)
        raise
    _claim(place).unlink(missing_ok=True)


def is_claimed(place: Path) -> bool:
    """Whether a stage started to write `place` and did not finish: killed, stopped, or a gate was not met."""
    return _claim(place).is_file()


def holds_others(place: Path) -> bool:
    """Whether a run contains scores that no stage made; replacing the run would delete them."""
    evals = place / "evals"
    found = [each for each in evals.iterdir() if each.is_dir()] if evals.is_dir() else []
    return any(not (each / RECORD).is_file() and not is_claimed(each) for each in found)


def fingerprint(place: Path) -> str:
    """Hash the content of a file or folder; empty if there is nothing.

    For a run, the model is hashed; for prepared data, the manifest, which holds the hashes of the text, plus the names
    and sizes of the other files; for any other folder, every file.
    """
    if place.is_file():
        return atomic.sha256(place)
    if (place / runs.RUN).is_file():
        place = place / "model"
    by_size = is_prepared(place)
    found = hashlib.sha256()
    empty = True
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name == RECORD or not path.is_file() or path.name.startswith(atomic.TEMPORARY):
            continue
        of = str(path.stat().st_size) if by_size and name != MANIFEST else atomic.sha256(path)
        found.update(f"{name}\0{of}\n".encode("utf-8", "surrogateescape"))
        empty = False
    return "" if empty else found.hexdigest()
