"""Atomic writes: a file or folder appears complete or not at all.

Everything is written under a temporary name in the same folder, synced, then renamed. Temporary names start with
`.llmctl-`, so leftovers of a killed process cannot be mistaken for a user's files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from llmctl.errors import BusyError, EnvironmentFault, UsageError, naming

TEMPORARY: Final = ".llmctl-"
TOKEN_BYTES: Final = 4
"""Random bytes in a temporary name, two hexadecimal digits each."""
SECONDS_UNTIL_HELD: Final = 2
"""Within this time a new temporary file or folder is certainly locked by the process that made it."""
OLD: Final = "old-"
"""Follows `TEMPORARY` in the name of an output that is being replaced."""


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder as `path`."""
    return path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(TOKEN_BYTES)}"


def sync(path: Path) -> None:
    """Flush a file or folder entry to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, *, force: bool = True) -> Iterator[IO[bytes]]:
    """Open a binary file that takes its name only if the block succeeds. Creates missing parent folders."""
    remove_leftovers(path)
    if not force and path.exists():
        raise UsageError(f"{path} exists", hint="--force overwrites it")
    if is_stream(path):
        with naming(path), path.open("ab") as stream:
            yield stream
        return
    temporary = temporary_beside(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = temporary.open("xb")
        except OSError as error:
            raise _cannot_write(path, error) from error
        with naming(path), opened as file:
            _hold(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether a path names a device, a pipe or an open descriptor, such as /dev/null or /dev/stdout: it is written into and
    never replaced."""
    return path.exists() and not path.is_dir() and (not path.is_file() or os.path.abspath(path).startswith("/dev/"))


def _cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"cannot write {path}: {error.strerror or error}", hint="name another output, or change its permissions"
    )


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented by two."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file atomically."""
    with atomic_file(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n")


@contextlib.contextmanager
def atomic_folder(
    path: Path,
    *,
    force: bool = False,
    marker: str | None = None,
    again: Path | None = None,
    stays: Callable[[Path, BaseException], bool] | None = None,
) -> Iterator[Path]:
    """Make a folder that takes its name only if the block succeeds; yields the temporary folder to fill.

    With `force`, an existing folder that holds `marker` is replaced; it stays until the new one is complete. `again`: a
    temporary folder of an interrupted process, which is filled further. Raises `BusyError` if another process does so.
    `stays`: whether the temporary folder stays after an exception, for a later `again`; otherwise it is removed.
    """
    path = Path(os.path.abspath(path))
    descriptor = None if again is None else _taken_over(again)
    remove_leftovers(path)
    refuse_existing(path, force=force, marker=marker)
    _make_parents(path)
    temporary = again or temporary_beside(path)
    if descriptor is None:
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        _hold(descriptor)
    kept = False
    try:
        with naming(path):
            yield temporary
            for each in sorted(temporary.rglob("*")):
                sync(each)
            sync(temporary)
        put_in_place(temporary, path)
    except BaseException as error:
        kept = stays is not None  # also if a second signal comes meanwhile
        kept = stays is not None and stays(temporary, error)
        raise
    finally:
        os.close(descriptor)
        if not kept:
            shutil.rmtree(temporary, ignore_errors=True)


def _taken_over(folder: Path) -> int:
    """A descriptor that holds the lock on a folder that a killed process left."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BusyError(f"another process continues {folder}", hint="wait for it, or stop it") from error
    return descriptor


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside `path` while they wrote it.

    Who writes holds a lock on the temporary file or folder, which the kernel releases when that process ends. An output
    that was to be replaced, and was not, gets its name back.
    """
    pattern = re.compile(f"{re.escape(TEMPORARY)}({OLD})?{re.escape(path.name)}-[0-9a-f]{{{2 * TOKEN_BYTES}}}")
    with contextlib.suppress(OSError):
        for each in [Path(entry) for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name)]:
            if each.name.startswith(TEMPORARY + OLD) and not path.exists():
                each.rename(path)
            else:
                _remove_unless_held(each)


def _remove_unless_held(path: Path) -> None:
    with contextlib.suppress(OSError):  # in use, or removed by another process meanwhile
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
            just_made = empty and time.time() - path.stat().st_mtime < SECONDS_UNTIL_HELD
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not just_made:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _hold(descriptor: int) -> None:
    """Lock a temporary file or folder of ours while it is written; not every file system can."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a folder to its final name; whatever has that name is removed only once the new folder is in place."""
    old = None
    if path.exists() or path.is_symlink():
        old = temporary_beside(path.with_name(OLD + path.name))
        path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        if old is not None:
            old.rename(path)
        raise
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def refuse_existing(path: Path, *, force: bool, marker: str | None = None, go_on: str = "") -> None:
    """Raise `UsageError` if `path` exists and may not be overwritten. `go_on`: a command that resumes a folder of ours.

    Even with `--force`, a folder is replaced only if it holds `marker`, a file that shows that llmctl made it; so a
    home folder is never replaced.
    """
    if not (path.exists() or path.is_symlink()) or (path.is_dir() and all(map(_is_leftover, path.iterdir()))):
        return
    if marker is None and is_stream(path):
        return
    if not force:
        ours = marker is not None and (path / marker).is_file()
        hint = f"resume it: {go_on}; or " if go_on and ours else ""
        raise UsageError(f"the output {path} exists", hint=f"{hint}name another, or use --force to overwrite it")
    if marker is not None and not (path / marker).is_file():
        raise UsageError(
            f"{path} has no {marker}: llmctl did not make it and will not overwrite it", hint="name another output"
        )


def _is_leftover(path: Path) -> bool:
    """Whether a killed process left the file: its lock, or a temporary name."""
    return path.name == ".lock" or path.name.startswith(TEMPORARY)


def refuse_same(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `UsageError` if an output is an input, contains one, or lies inside one, also through a link."""
    target = output.resolve()
    for each in inputs:
        source = each.resolve()
        if source.is_relative_to(target):
            raise UsageError(f"the output {output} would overwrite the input {each}", hint="name another output")
        if target.is_relative_to(source):
            raise UsageError(f"the output {output} lies inside the input {each}", hint="name an output outside it")
        with contextlib.suppress(OSError):
            if output.samefile(each):
                raise UsageError(f"the output {output} is the input {each}", hint="name another output")


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path.parent} is not a folder", hint="name another output") from error


def check_writable(path: Path, *, bytes_needed: int = 0) -> None:
    """Check that `path` could be created; creates nothing.

    Raises `EnvironmentFault` for missing permissions or too little disk space, `UsageError` if a parent is a file or if
    the path is a dash, which does not name a file.
    """
    if path.parts[:1] == ("-",):
        raise UsageError("the output cannot be standard output (-)", hint="name a file or folder")
    folder = Path(os.path.abspath(path)).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentFault(f"cannot write to {folder}", hint="name another output, or change its permissions")
    usage = shutil.disk_usage(folder)
    if usage.total == 0 and not is_stream(path):
        _try_to_write(path, folder)  # such as /proc, which no permission keeps from being written to
    free = usage.free
    if free < bytes_needed:
        raise EnvironmentFault(
            f"{path} needs about {bytes_needed:,} bytes, {free:,} are free", hint="free some disk space"
        )


def _try_to_write(path: Path, folder: Path) -> None:
    """Make and remove a file in a folder. Raises `EnvironmentFault`."""
    probe = temporary_beside(folder / "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
