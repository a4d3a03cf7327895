"""Reports of gates for other tools: files of JUnit XML and Markdown, annotations of GitHub Actions, also of errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.errors import Failure, GateError, LlmctlError, UsageError
from llmctl.gates import GateResult
from llmctl.settings import places
from llmctl.store import atomic
from llmctl.types import Event, EventSink

STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
"""The environment variable that names the summary of a step in GitHub Actions; each step appends to it."""

_WRITTEN: Final[set[str]] = set()
"""Reports that this process wrote: an error that comes later replaces them."""


def check(path: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Raise the errors of a report that cannot be written."""
    atomic.refuse_same(path, inputs)
    if path.is_dir():
        raise UsageError(f"the report {path} is a folder", hint="name a file")
    if not _appended(path):
        atomic.refuse_existing(path, force=force)
    atomic.check_writable(path)


def _appended(path: Path) -> bool:
    """Whether it is the summary of the step, which holds what other commands wrote."""
    summary = os.environ.get(STEP_SUMMARY)
    return bool(summary) and os.path.realpath(path) == os.path.realpath(summary or "")


def write(path: Path, text: str) -> None:
    """Write a report that `check` let pass."""
    if _appended(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")  # a blank line ends the table
        return
    atomic.write_text(path, text)
    _WRITTEN.add(os.path.realpath(path))


def finish(
    gates: Sequence[GateResult], annotations: str, document: Mapping[str, Any], emit: EventSink
) -> GateError | None:
    """Emit the annotations under GitHub Actions; return the error for gates that are not met, with the
    document."""
    if annotated():
        emit(Event("annotation", {"text": annotations}))
    missed = [gate.why for gate in gates if not gate.met]
    if not missed:
        return None
    error = GateError("a gate is not met: " + "; ".join(missed))
    error.document = document
    return error


def annotated() -> bool:
    """Whether annotations are read."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def failed(
    verb: str,
    settings: Mapping[str, Any],
    failure: Failure,
    emit: EventSink,
    *,
    done: str,
    inputs: Sequence[str],
    force: bool,
) -> None:
    """Report an error that ended a verb where its numbers would have been reported.

    `done`: the key of a document whose gates are in the reports already. `inputs`: settings that name what is read. A
    file that exists stays, unless `force` is set or it is ours.
    """
    if done in failure.document:
        return
    from llmctl.metrics import report

    if annotated():
        emit(Event("annotation", {"text": report.github_error(failure, verb)}))
    read = [path for name in inputs for path in _paths(settings, name)]
    for name, text in (("junit", report.junit_error(failure, verb)), ("markdown", report.markdown_error(failure))):
        for path in _paths(settings, name):
            # The error itself is already reported; a report that cannot be written must not replace it.
            with contextlib.suppress(LlmctlError, OSError):
                check(path, read, force=force or os.path.realpath(path) in _WRITTEN)
                write(path, text)
                read.append(path)


def _paths(settings: Mapping[str, Any], name: str) -> list[Path]:
    """The paths of a setting that may not have been validated."""
    found = settings.get(name)
    values = found if isinstance(found, list | tuple) else [found]
    texts = [each for each in values if isinstance(each, str | Path) and str(each)]
    return places(*texts) if name in ("model", "inputs") else [Path(each) for each in texts]
