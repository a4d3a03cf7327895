"""Tables of values and damages, shared by the attacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

VALUES: Final[Mapping[str, Any]] = {
    "text": "x",
    "escape": "\x1b[2J\x1b]0;pwned\x07",
    "zero": 0,
    "negative": -1,
    "huge": 10**9,
    "larger than any": 10**30,
    "fraction": 1.5,
    "null": None,
    "list": [],
    "nested list": [[1]],
    "object": {},
    "true": True,
}
"""Wrong values of a setting, by their kind."""


def deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def outward(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)


DAMAGES: Final[Mapping[str, Callable[[Path], None]]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "one bit flipped": flipped,
    "zeros": lambda path: path.write_bytes(bytes(1000)) and None,
    "random bytes": lambda path: path.write_bytes(os.urandom(1000)) and None,
    "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16")) and None,
    "a list": lambda path: path.write_text("[1, 2]") and None,
    "too deep": deep,
    "a folder": folder,
    "a link to itself": loop,
    "a link out of the folder": outward,
}
"""What may have happened to a file."""
