"""A run folder: what was asked, what happened, what came out. Plain files: `cat`, `jq`, `rsync`, `rm -r` work."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict

from llmctl import __version__
from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.store import atomic

RUN: Final = "run.json"
METRICS: Final = "metrics.jsonl"
Status = Literal["running", "finished", "stopped", "failed"]
_SECRET: Final = re.compile(
    r"\b(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,})|((?:token|secret|password|api[_-]?key)[=:\s]+)\S+", re.I
)


class RunRecord(Spec):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verb: str
    status: Status
    started: str
    ended: str | None = None
    exit_code: int | None = None
    argv: tuple[str, ...] = ()
    model: str | None = None
    task: str | None = None
    parents: dict[str, str] = {}
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    git: str | None = None
    result: dict[str, Any] = {}
    error: str | None = None


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def redact(text: str) -> str:
    """Text with anything that looks like a secret blotted out."""
    return _SECRET.sub(lambda found: (found[2] or "") + "***", text)


def begin(folder: Path, verb: str, *, model: str, task: str, parents: Mapping[str, str]) -> RunRecord:
    """Write `run.json` that says `running`."""
    record = RunRecord(
        verb=verb,
        status="running",
        started=now(),
        argv=tuple(redact(each) for each in sys.argv),
        model=model,
        task=task,
        parents=dict(parents),
        versions=versions(),
        hardware=hardware(),
        git=_git_commit(),
    )
    write(folder, record)
    return record


def end(folder: Path, record: RunRecord, status: Status, *, exit_code: int, **more: Any) -> RunRecord:
    """Write how it ended."""
    record = record.replace(status=status, ended=now(), exit_code=exit_code, **more)
    write(folder, record)
    return record


def write(folder: Path, record: RunRecord) -> None:
    atomic.write_json(folder / RUN, record.model_dump())


def read(folder: Path) -> RunRecord:
    """Raises `UsageError` where there is no run, `IntegrityError` where its record was edited."""
    path = folder / RUN
    if not path.is_file():
        raise UsageError(f"{folder} is no run folder: it has no {RUN}", hint="see: llmctl runs list")
    try:
        return RunRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise IntegrityError("is not what llmctl wrote", where=str(path)) from error


def under(folder: Path) -> Iterator[Path]:
    """Run folders in `folder` and below, by name; nothing inside a run is looked at."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if RUN in files:
            folders.clear()
            yield Path(path)
        folders[:] = [name for name in folders if not name.startswith(".")]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without a half one that a killed process left."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def versions(
    packages: Sequence[str] = ("torch", "transformers", "tokenizers", "accelerate", "numpy"),
) -> dict[str, str]:
    """What was installed, by package metadata: nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"llmctl": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Where it ran."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": pages * size,
    }


def _git_commit() -> str | None:
    """The commit of the folder that the user stands in, if it is a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def without_nan(value: Any) -> Any:
    """A JSON value with null in the place of what JSON cannot say: infinities and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    return [without_nan(each) for each in value] if isinstance(value, list | tuple) else value
