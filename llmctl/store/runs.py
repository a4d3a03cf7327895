"""A run folder: settings, progress and results as plain files, so that `cat`, `jq`, `rsync` and `rm -r` work."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from pydantic import ConfigDict

from llmctl import __version__
from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.readable import quoted
from llmctl.store import atomic, locks
from llmctl.store.safety import read_json

RUN: Final = "run.json"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.yaml"
CHECKPOINTS: Final = "checkpoints"
Status = Literal["running", "finished", "stopped", "failed"]
_SECRET: Final = re.compile(
    r"\b(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,})|((?:token|secret|password|api[_-]?key)[=:\s]+)\S+", re.I
)


class RunRecord(Spec):
    """The contents of `run.json`."""

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
    settings: dict[str, Any] = {}
    """The resolved settings, as config.yaml has them, to detect that it was edited. Empty if version 0.1 wrote it."""
    result: dict[str, Any] = {}
    error: str | None = None


def now() -> str:
    """The current time: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def redact(text: str) -> str:
    """Replace anything that looks like a secret with `***`."""
    return _SECRET.sub(lambda found: (found[2] or "") + "***", text)


def open_folder(
    out: Path, verb: str, settings: Mapping[str, Any], *, empty: bool = False, keep: Collection[str] = ()
) -> None:
    """Write config.yaml into a locked output folder and remove what a killed process left half-written.

    `empty`: remove everything but the lock and the names in `keep`.
    """
    for left in list(out.iterdir() if empty else out.rglob(f"{atomic.TEMPORARY}*")):
        if left.name not in (locks.NAME, *keep):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
    import yaml

    atomic.write_text(out / CONFIG, yaml.safe_dump({verb: dict(settings)}, allow_unicode=True, sort_keys=False))


def begin(
    folder: Path,
    verb: str,
    *,
    model: str,
    task: str,
    parents: Mapping[str, str],
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> RunRecord:
    """Write `run.json` with the status `running`."""
    record = RunRecord(
        verb=verb,
        status="running",
        started=now(),
        argv=tuple(redact(each) for each in sys.argv),
        model=model,
        task=task,
        parents=dict(parents),
        settings=dict(settings),
        versions=versions(),
        hardware=hardware(),
        git=_git_commit(),
    )
    write(folder, record)
    return record


def end(folder: Path, record: RunRecord, status: Status, *, exit_code: int, **more: Any) -> RunRecord:
    """Write the final status, end time and exit code to `run.json`."""
    record = record.replace(status=status, ended=now(), exit_code=exit_code, **more)
    write(folder, record)
    return record


def write(folder: Path, record: RunRecord) -> None:
    atomic.write_json(folder / RUN, record.model_dump())


def read(folder: Path) -> RunRecord:
    """Read `run.json`. Raises `UsageError` if `folder` is not a run, `IntegrityError` if the record was edited."""
    path = folder / RUN
    if not path.is_file():
        resumable = (
            f"llmctl train --resume {quoted(folder)} writes it again" if is_started(folder) else "see: llmctl runs list"
        )
        raise UsageError(f"{folder} is not a run folder: it has no {RUN}", hint=resumable)
    try:
        return RunRecord.model_validate(read_json(path))
    except (ValueError, IntegrityError) as error:
        raise IntegrityError(
            "not written by llmctl, or edited since",
            where=str(path),
            hint=f"llmctl train --resume {quoted(folder)} writes it again from the checkpoints",
        ) from error


def is_started(folder: Path) -> bool:
    """Whether a training run was started in the folder, even if parts of it are lost."""
    return any((folder / name).exists() for name in (RUN, CONFIG, CHECKPOINTS))


class Origin(NamedTuple):
    """What a run was started with."""

    settings: Mapping[str, Any] = {}
    parents: Mapping[str, str] = {}


def origin(folder: Path) -> Origin:
    """What a run was started with, from `run.json` or, if that is lost, from the newest checkpoint that records it.

    Version 0.1 recorded no settings.
    """
    with contextlib.suppress(UsageError, IntegrityError):
        record = read(folder)
        return Origin(record.settings, record.parents)
    for path in sorted((folder / CHECKPOINTS).glob("step-*/state.json"), reverse=True):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))["origin"]
            return Origin(dict(found["settings"]), dict(found["parents"]))
    return Origin()


def under(folder: Path) -> Iterator[Path]:
    """Run folders in `folder` and below, sorted by name; does not descend into runs or hidden folders."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if RUN in files:
            folders.clear()
            yield Path(path)
        folders[:] = [name for name in folders if not name.startswith(".")]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; skips lines that are no rows: damaged ones, and a last one that a killed process cut."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and _is_row(row)]


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has a step, and numbers everywhere."""
    return "step" in row and all(isinstance(each, int | float) and not isinstance(each, bool) for each in row.values())


def versions(
    packages: Sequence[str] = ("torch", "transformers", "tokenizers", "accelerate", "numpy"),
) -> dict[str, str]:
    """Versions of llmctl, Python and the installed packages, from package metadata; imports none of them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"llmctl": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Host name, system, usable CPUs and memory in bytes."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": pages * size,
    }


def _git_commit() -> str | None:
    """The git commit checked out in the working directory; None if it is not a repository."""
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
    """Replace NaN and infinities, which JSON cannot represent, with null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    return [without_nan(each) for each in value] if isinstance(value, list | tuple) else value
