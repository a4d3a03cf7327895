"""Files and folders that appear whole or not at all.

Everything is made under a temporary name in the same folder, synced, then renamed. A temporary name begins with
`.llmctl-` so that what a killed process left behind can be told from what a user put there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from llmctl.errors import EnvironmentFault, UsageError

TEMPORARY: Final = ".llmctl-"


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`."""
    return path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"


def sync(path: Path) -> None:
    """Make sure that the file or folder entry is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, *, force: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that takes its name only when the block ends well. Makes the folder it is in."""
    if not force and path.exists():
        raise UsageError(f"{path} exists", hint="--force overwrites it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, whole."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole, one key a line."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSONL file, whole."""
    with atomic_file(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n")


@contextlib.contextmanager
def atomic_folder(path: Path, *, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """A folder that takes its name only when the block ends well; yields where to fill it.

    With `force` a folder in the way is replaced (if it holds `marker`), and is there until the new one is whole.
    """
    path = Path(os.path.abspath(path))
    refuse_existing(path, force=force, marker=marker)
    _make_parents(path)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for each in sorted(temporary.rglob("*")):
            sync(each)
        sync(temporary)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a folder to its name; what was there goes only once the new one is in place."""
    old = None
    if path.exists() or path.is_symlink():
        old = temporary_beside(path)
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
    """Raise `UsageError` where something would be overwritten without `--force`. `go_on`: the command that goes on with
    what holds `marker`.

    Even with it a folder is replaced only if it holds `marker`, a file that says llmctl made it: never a home folder.
    """
    if not (path.exists() or path.is_symlink()) or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        ours = marker is not None and (path / marker).is_file()
        hint = f"go on with it: {go_on}; or " if go_on and ours else ""
        raise UsageError(f"the output {path} exists", hint=f"{hint}name another, or --force to replace it")
    if marker is not None and not (path / marker).is_file():
        raise UsageError(
            f"{path} holds no {marker}: llmctl did not make it and does not replace it", hint="name another output"
        )


def refuse_same(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `UsageError` where an output is one of the inputs, holds one, or lies in one, also through a link."""
    target = output.resolve()
    for each in inputs:
        source = each.resolve()
        if source.is_relative_to(target):
            raise UsageError(f"the output {output} would overwrite the input {each}", hint="name another output")
        if target.is_relative_to(source):
            raise UsageError(f"the output {output} lies inside the input {each}", hint="name a place outside it")
        with contextlib.suppress(OSError):
            if output.samefile(each):
                raise UsageError(f"the output {output} is the input {each}", hint="name another output")


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path.parent} is not a folder", hint="name another output") from error


def check_writable(path: Path, *, bytes_needed: int = 0) -> None:
    """Raise `EnvironmentFault` where `path` could not be made: no permission, or too little disk; `UsageError` where a
    folder of it is a file, or where it is a dash, which names nothing. Makes nothing."""
    if path.parts[:1] == ("-",):
        raise UsageError("the output - has no name", hint="name a file or folder")
    folder = Path(os.path.abspath(path)).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentFault(f"cannot write in {folder}", hint="name another output, or change its permissions")
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise EnvironmentFault(f"{path} needs about {bytes_needed:,} bytes, {free:,} are free", hint="free some disk")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
