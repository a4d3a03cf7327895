"""Reports of `eval` for other tools: JUnit XML, Markdown and annotations, of scores and of errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl.errors import Failure, GateError, LlmctlError, UsageError
from llmctl.store import atomic
from llmctl.types import Event, EventSink
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.settings import places

if TYPE_CHECKING:
    from llmctl.workflows.evaluate.run import EvalResult

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


def _write(path: Path, text: str) -> None:
    if _appended(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")  # a blank line ends the table
        return
    atomic.write_text(path, text)
    _WRITTEN.add(os.path.realpath(path))


def write(config: EvalConfig, result: EvalResult) -> None:
    """Write the scores and gates to the files that the settings name."""
    from llmctl.metrics import report

    if config.junit is not None:
        _write(config.junit, report.junit(result.scores, result.gates))
    if config.markdown is not None:
        _write(config.markdown, report.markdown(result.scores, result.gates))


def finish(result: EvalResult, emit: EventSink) -> GateError | None:
    """Emit annotations under GitHub Actions; return the error for gates that are not met, with the
    result's document."""
    if _annotated():
        from llmctl.metrics import report

        emit(Event("annotation", {"text": report.github_annotations(result.scores, result.gates)}))
    missed = [gate.why for gate in result.gates if not gate.met]
    if not missed:
        return None
    error = GateError("a gate is not met: " + "; ".join(missed))
    error.document = result.document()
    return error


def _annotated() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def failed(settings: Mapping[str, Any], failure: Failure, emit: EventSink, *, force: bool) -> None:
    """Report an error that ended `eval` where its scores would have been reported.

    Gates that are not met are in the reports already. A file that exists stays, unless `force` is set or it is ours.
    """
    if "scores" in failure.document:
        return
    from llmctl.metrics import report

    if _annotated():
        emit(Event("annotation", {"text": report.github_error(failure)}))
    inputs = [*_paths(settings, "predictions"), *_paths(settings, "baseline"), *_paths(settings, "references")]
    inputs += [*_paths(settings, "data"), *_paths(settings, "model")]
    for name, text in (("junit", report.junit_error), ("markdown", report.markdown_error)):
        for path in _paths(settings, name):
            # The error itself is already reported; a report that cannot be written must not replace it.
            with contextlib.suppress(LlmctlError, OSError):
                check(path, inputs, force=force or os.path.realpath(path) in _WRITTEN)
                _write(path, text(failure))
                inputs.append(path)


def _paths(settings: Mapping[str, Any], name: str) -> list[Path]:
    """The paths of a setting that may not have been validated."""
    found = settings.get(name)
    values = found if isinstance(found, list | tuple) else [found]
    texts = [each for each in values if isinstance(each, str | Path) and str(each)]
    return places(*texts) if name == "model" else [Path(each) for each in texts]
