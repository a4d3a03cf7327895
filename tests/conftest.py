"""Settings and folders that tests share: one thread, no network, plain output; small prepared folders made once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    NO_COLOR="1",
)


def pytest_xdist_auto_num_workers() -> int:
    """One for each processor that this process may use, four at most: each takes a gigabyte or two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed or 1, 4)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def llmctl() -> Run:
    """Run the command as a process of its own; returns it with exit code, stdout and stderr."""

    def run(*words: str | Path, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llmctl", *map(str, words)]
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, cwd=cwd, check=False, **options | more)

    return run


@pytest.fixture(scope="session")
def on_terminal() -> Callable[..., str]:
    """Run the command on a terminal of so many columns; returns what a person sees, without colour."""

    def run(width: int, *words: str | Path, cwd: Path | None = None) -> str:
        import pty
        import re

        dull = ("NO_COLOR", "CI")
        env = {name: value for name, value in os.environ.items() if name not in dull}
        screen, terminal = pty.openpty()
        command = [sys.executable, "-m", "llmctl", *map(str, words)]
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env | {"TERM": "xterm", "COLUMNS": str(width)},
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is closed at its other end
            while piece := os.read(screen, 65536):
                seen += piece
        os.close(screen)
        assert process.wait(timeout=60) == 0, seen
        return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n")

    return run


@pytest.fixture(scope="session")
def inside() -> Callable[..., dict[str, Any]]:
    """Run the command in this process (torch is imported once) with `--json`; returns its document."""

    def run(*words: str | Path, code: int = 0) -> dict[str, Any]:
        import io

        from llmctl.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = main.run([*map(str, words), "--json"])
        assert ended == code, f"exit code {ended}\n{out.getvalue()}\n{err.getvalue()}"
        document: dict[str, Any] = json.loads(out.getvalue())
        return document

    return run


def _prepared(inside: Callable[..., dict[str, Any]], folder: Path, *words: str) -> Path:
    inside("preprocess", *words, "--out", folder)
    return folder


@pytest.fixture(scope="session")
def sonnets(inside: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sonnets, packed in blocks of 32."""
    words = ("sonnets", "--task", "lm", "--vocab-size", "400", "--set", "block_size=32")
    return _prepared(inside, tmp_path_factory.mktemp("data") / "sonnets", *words)


@pytest.fixture(scope="session")
def dates(inside: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dates in English and Chinese."""
    return _prepared(inside, tmp_path_factory.mktemp("data") / "dates", "dates-en-zh", "--vocab-size", "500")


@pytest.fixture(scope="session")
def reviews(inside: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Review sentences with their labels."""
    words = ("reviews", "--tokenizer", "word", "--vocab-size", "1000")
    return _prepared(inside, tmp_path_factory.mktemp("data") / "reviews", *words)
