"""Reports of `eval` for other tools: JUnit XML, Markdown and annotations, of scores and of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from llmctl import reports
from llmctl.errors import Failure, GateError
from llmctl.types import EventSink
from llmctl.workflows.evaluate.spec import EvalConfig

if TYPE_CHECKING:
    from llmctl.workflows.evaluate.run import EvalResult

READ: Final = ("predictions", "baseline", "references", "data", "model")
"""Settings that name what is read."""


def write(config: EvalConfig, result: EvalResult) -> None:
    """Write the scores and gates to the files that the settings name."""
    from llmctl.metrics import report

    if config.junit is not None:
        reports.write(config.junit, report.junit(result.scores, result.gates))
    if config.markdown is not None:
        reports.write(config.markdown, report.markdown(result.scores, result.gates))


def finish(result: EvalResult, emit: EventSink) -> GateError | None:
    """See `reports.finish`."""
    from llmctl.metrics import report

    return reports.finish(result.gates, report.github_annotations(result.scores, result.gates), result.document(), emit)


def failed(settings: Mapping[str, Any], failure: Failure, emit: EventSink, *, force: bool) -> None:
    """See `reports.failed`."""
    reports.failed("eval", settings, failure, emit, done="scores", inputs=READ, force=force)
