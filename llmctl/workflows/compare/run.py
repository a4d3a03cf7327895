"""`compare`: models trained on the same batches for the same budget, scored on the same records, in one table.

Each training and each scoring runs in its own process. Every result (row, run, learning-rate trial) is saved before the
next one starts, so an interruption loses at most the work of the current process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from llmctl.errors import GateError, Stopped
from llmctl.readable import quoted
from llmctl.store import atomic, locks, runs
from llmctl.types import EventSink
from llmctl.workflows.compare import report as comparison_report
from llmctl.workflows.compare.candidate import CandidateRunner
from llmctl.workflows.compare.checks import COMPARISON, SPLIT, Candidate, ComparePlan
from llmctl.workflows.compare.rows import ROW, answers, score_of, scored
from llmctl.workflows.train.run import StopSignal

SCHEMA: Final = "llmctl.compare/1"
ComparisonRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The document of `--json` and the names of the models in the table."""

    document: Mapping[str, Any]
    titles: Mapping[str, str]

    @property
    def failed(self) -> list[ComparisonRow]:
        return [row for row in self.document["rows"] if row["status"] == "failed"]


def refusal(result: CompareResult) -> GateError:
    """The error raised after the comparison if some models failed."""
    failed = result.failed
    what = "; ".join(f"{result.titles[row['model']]}: {row['error']['message']}" for row in failed)
    return GateError(
        f"{len(failed)} of {len(result.document['rows'])} models failed: {what}",
        hint=f"to retry them: llmctl compare --resume {quoted(result.document['out'])}",
    )


def compare(plan: ComparePlan, emit: EventSink, *, force: bool = False) -> CompareResult:
    """Train and score every model. Raises `Stopped` (75) on a stop signal, with the rows finished so far."""
    out = plan.config.out
    out.mkdir(parents=True, exist_ok=True)
    with locks.locked(out), StopSignal() as stop:
        _open(plan, force=force)
        comparison = _Comparison(plan, emit, stop)
        try:
            for candidate in plan.candidates:
                comparison.add_row(candidate)
            return comparison.select_best()
        except (Stopped, KeyboardInterrupt) as error:
            stopped = Stopped(
                f"stopped with {len(comparison.rows)} of {len(plan.candidates)} models done",
                hint=f"to continue: llmctl compare --resume {quoted(out)}",
            )
            stopped.document = comparison.document()
            raise stopped from error


def _open(plan: ComparePlan, *, force: bool) -> None:
    """Prepare the locked folder: emptied with `force`, kept on resume. `compare.json` is written first and never missing."""
    out = plan.config.out
    if not plan.resume:
        started = {"schema": SCHEMA, "finished": False, "rows": [], "settings": _settings(plan)}
        atomic.write_json(out / COMPARISON, started)
    runs.open_folder(out, "compare", _settings(plan), empty=force and not plan.resume, keep=(COMPARISON,))


def _settings(plan: ComparePlan) -> dict[str, Any]:
    """The settings as config.yaml has them; `compare.json` has them too, to detect that config.yaml was edited."""
    settings: dict[str, Any] = json.loads(plan.config.model_dump_json(exclude_none=True))
    return settings


class _Comparison:
    """The rows of a comparison in progress, and its document."""

    def __init__(self, plan: ComparePlan, emit: EventSink, stop: Callable[[], bool]) -> None:
        self.plan, self.emit, self.stop = plan, emit, stop
        self.out = plan.config.out
        before = {row["model"]: row for row in plan.found.get("rows", ()) if row["status"] == "ok"}
        self.rows: dict[str, ComparisonRow] = {
            each.model: before[each.model]
            for each in plan.candidates
            if before.get(each.model, {}).keys() >= set(ROW) and (scored(each) / "predictions.jsonl").is_file()
        }
        self.best: list[dict[str, Any]] = []
        self._started, self._before = time.monotonic(), float(plan.found.get("seconds") or 0.0)

    def document(self) -> dict[str, Any]:
        """The document of `--json` so far."""
        found: dict[str, Any] = {
            "task": self.plan.task.name,
            "data": str(self.plan.config.data),
            "split": SPLIT,
            "budget": self.plan.budget,
            "rows": [self.rows[each.model] for each in self.plan.candidates if each.model in self.rows],
            "best": self.best,
            "out": str(self.out),
            "seconds": round(self._before + time.monotonic() - self._started, 3),
        }
        cleaned: dict[str, Any] = runs.without_nan(found)
        return cleaned

    def _write(self, document: Mapping[str, Any], *, finished: bool = False) -> None:
        atomic.write_json(
            self.out / COMPARISON,
            {"schema": SCHEMA, "finished": finished, **document, "settings": _settings(self.plan)},
        )

    def add_row(self, candidate: Candidate) -> None:
        """Train and score a model, unless its row exists; save the row."""
        runner = CandidateRunner(self.plan, candidate, self.emit, self.stop)
        if candidate.model in self.rows:
            runner.note("already done")
            return
        row = runner.row()
        self.rows[candidate.model] = row
        self._write(self.document())
        if row["status"] == "ok":
            runner.remove_trials()

    def select_best(self) -> CompareResult:
        """Mark the best model per metric; write the plots, the page and the final document."""
        from llmctl.metrics.best import System, best_of
        from llmctl.training import comparison_plot

        systems = [
            System(each.model, list(answers(each)), [score_of(score) for score in self.rows[each.model]["scores"]])
            for each in self.plan.candidates
            if self.rows[each.model]["status"] == "ok"
        ]
        if systems:
            found = best_of(self.plan.metrics, systems, seed=self.plan.config.seed)
            self.best = [asdict(each) for each in found]
        curves = {each.title: runs.metrics(each.run) for each in self.plan.candidates}
        title = f"{self.plan.task.name} on {self.plan.config.data.name}"
        comparison_plot.loss_plots(curves, self.out / "plots", title=title)
        result = CompareResult(self.document(), {each.model: each.title for each in self.plan.candidates})
        atomic.write_text(self.out / "compare.md", comparison_report.markdown(result.document, result.titles))
        self._write(result.document, finished=True)
        return result
