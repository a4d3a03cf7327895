"""Hashes of the files in a folder, recorded when it is written and checked when it is used.

The record (`manifest.json`, `llmctl.json`) is written last. A file of the recorded size that has not been written,
replaced or touched since the record was is trusted; any other, such as one in a copied folder, is hashed. When all
hashes are right, the record gets the time of the newest file, so the next check is cheap again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import Field

from llmctl.config import Spec
from llmctl.errors import IntegrityError
from llmctl.store import atomic
from llmctl.store.safety import no_permission

SHOWN: Final = 5


class FileHash(Spec):
    """Size and SHA-256 of a file."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"[0-9a-f]{64}")


def state(path: Path) -> list[int] | None:
    """What changes when somebody writes a file; None: there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def hashes(folder: Path, paths: Iterable[Path]) -> dict[str, FileHash]:
    """Name relative to `folder`, with `/` -> size and hash."""
    return {
        path.relative_to(folder).as_posix(): FileHash(bytes=path.stat().st_size, sha256=atomic.sha256(path))
        for path in sorted(paths)
    }


def check(folder: Path, recorded: Mapping[str, FileHash], record: Path, *, verify: bool, hint: str) -> None:
    """Raise `IntegrityError`, naming the files, where `folder` differs from what is `recorded` in the file `record`.

    `verify`: hash every file. Raises `EnvironmentFault` for a file that this user may not read.
    """
    faults: list[str] = []
    written, newest, hashed = record.stat().st_mtime_ns, 0, False
    for name, expected in recorded.items():
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(f"names a file outside the folder: {name!r}", where=f"{record}:files")
        try:
            found = path.stat()
            if not os.access(path, os.R_OK):
                raise no_permission(path)
            changed = max(found.st_mtime_ns, found.st_ctime_ns)
            newest = max(newest, changed)
            if found.st_size != expected.bytes:
                faults.append(f"{name} has {found.st_size:,} bytes, {expected.bytes:,} were written")
            elif verify or changed > written:
                hashed = True
                if atomic.sha256(path) != expected.sha256:
                    faults.append(f"{name} has changed since it was written (its hash differs)")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            faults.append(f"{name} is missing")
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise IntegrityError("; ".join(faults[:SHOWN]) + more, where=str(folder), hint=hint)
    if hashed and newest > written:
        with contextlib.suppress(OSError):  # a folder of someone else is hashed each time
            os.utime(record, ns=(newest, newest))
