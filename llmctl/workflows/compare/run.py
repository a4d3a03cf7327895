"""`compare`: models trained on the same batches for the same budget, scored on the same records, in one table.

Each training and each scoring runs in its own process. Every result (row, run, learning-rate trial) is saved before the
next one starts, so an interruption loses at most the work of the current process.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from llmctl.errors import DivergedError, GateError, LlmctlError, Stopped
from llmctl.readable import quoted
from llmctl.store import atomic, locks, runs
from llmctl.training import launch
from llmctl.types import Event, EventSink
from llmctl.verbs import CONFIG
from llmctl.workflows.compare import report as comparison_report
from llmctl.workflows.compare.checks import COMPARISON, SPLIT, Candidate, ComparePlan, preflight
from llmctl.workflows.compare.rows import ROW, answers, ended, resumable, score_of, scored, so_far, trained
from llmctl.workflows.evaluate import run as evaluate
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.train import run as train
from llmctl.workflows.train.spec import TrainConfig

LEAST_TRIAL: Final = 10
"""Fewest steps of a meaningful trial: in shorter ones the warm-up is not over and the largest rate would always win."""

__all__ = ["CompareResult", "compare", "preflight", "refusal"]

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


def compare(checked: ComparePlan, emit: EventSink, *, force: bool = False) -> CompareResult:
    """Train and score every model. Raises `Stopped` (75) on a stop signal, with the rows finished so far."""
    out = checked.config.out
    out.mkdir(parents=True, exist_ok=True)
    with locks.locked(out), train.StopSignal() as stop:
        _open(checked, force=force)
        comparison = _Comparison(checked, emit, stop)
        try:
            for candidate in checked.candidates:
                comparison.run_candidate(candidate)
            return comparison.select_best()
        except (Stopped, KeyboardInterrupt) as error:
            stopped = Stopped(
                f"stopped with {len(comparison.rows)} of {len(checked.candidates)} models done",
                hint=f"to continue: llmctl compare --resume {quoted(out)}",
            )
            stopped.document = comparison.document()
            raise stopped from error


def _open(checked: ComparePlan, *, force: bool) -> None:
    """Prepare the locked folder: emptied with `force`, kept on resume. `compare.json` is written first and never missing."""
    out = checked.config.out
    if not checked.resume:
        started = {"schema": SCHEMA, "finished": False, "rows": [], "settings": _settings(checked)}
        atomic.write_json(out / COMPARISON, started)
    for left in list(out.iterdir()) if force and not checked.resume else list(out.glob(f"{atomic.TEMPORARY}*")):
        if left.name not in (locks.NAME, COMPARISON):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
    import yaml

    text = yaml.safe_dump({"compare": _settings(checked)}, allow_unicode=True, sort_keys=False)
    atomic.write_text(out / CONFIG, text)


def _settings(checked: ComparePlan) -> dict[str, Any]:
    """The settings as config.yaml has them; `compare.json` has them too, to detect that config.yaml was edited."""
    settings: dict[str, Any] = json.loads(checked.config.model_dump_json(exclude_none=True))
    return settings


class _Comparison:
    """A comparison in progress."""

    def __init__(self, checked: ComparePlan, emit: EventSink, stop: Callable[[], bool]) -> None:
        self.checked, self.emit, self.stop = checked, emit, stop
        self.out = checked.config.out
        before = {row["model"]: row for row in checked.found.get("rows", ()) if row["status"] == "ok"}
        self.rows: dict[str, ComparisonRow] = {
            each.model: before[each.model]
            for each in checked.candidates
            if before.get(each.model, {}).keys() >= set(ROW) and (scored(each) / "predictions.jsonl").is_file()
        }
        self.best: list[dict[str, Any]] = []
        self._started, self._before = time.monotonic(), float(checked.found.get("seconds") or 0.0)

    # -- document ---------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """The document of `--json` so far."""
        found: dict[str, Any] = {
            "task": self.checked.task.name,
            "data": str(self.checked.config.data),
            "split": SPLIT,
            "budget": self.checked.budget,
            "rows": [self.rows[each.model] for each in self.checked.candidates if each.model in self.rows],
            "best": self.best,
            "out": str(self.out),
            "seconds": round(self._before + time.monotonic() - self._started, 3),
        }
        cleaned: dict[str, Any] = runs.without_nan(found)
        return cleaned

    def _write(self, document: Mapping[str, Any], *, finished: bool = False) -> None:
        atomic.write_json(
            self.out / COMPARISON,
            {"schema": SCHEMA, "finished": finished, **document, "settings": _settings(self.checked)},
        )

    # -- one model --------------------------------------------------------------------------------------------

    def run_candidate(self, candidate: Candidate) -> None:
        """Train and score a model, unless its row exists."""
        if candidate.model in self.rows:
            self._note(candidate, "already done")
            return
        row: dict[str, Any] = dict.fromkeys(ROW) | {
            "model": candidate.model,
            "family": candidate.checked.family,
            "status": "failed",
            "parameters": candidate.parameters,
            "scores": [],
            "search": [],
            "run": str(candidate.run),
        }
        try:
            row["learning_rate"] = self._rate(candidate, row["search"])
            row |= trained(self._train(candidate, row["learning_rate"]), candidate)
            row["scores"] = self._score(candidate)
            row["status"] = "ok"
        except Stopped:
            raise
        except LlmctlError as error:
            row |= so_far(candidate)
            row["error"] = {"kind": error.kind, "message": str(error), "hint": error.hint}
            self.emit(Event("warning", {"text": f"{candidate.title} failed: {error}"}))
        self.rows[candidate.model] = row
        self._write(self.document())
        if row["status"] == "ok":
            shutil.rmtree(candidate.trials, ignore_errors=True)
            with contextlib.suppress(OSError):  # other models still have trials
                candidate.trials.parent.rmdir()

    def _rate(self, candidate: Candidate, search: list[dict[str, Any]]) -> float:
        """Return the learning rate with the lowest validation loss; append every trial to `search`."""
        if len(candidate.rates) == 1:
            return candidate.rates[0]
        for number, rate in enumerate(candidate.rates, 1):
            self._note(candidate, f"search {number} of {len(candidate.rates)}, learning rate {rate:.3g}")
            loss, steps = self._trial(candidate, candidate.trial(rate, self.checked.config.search.share), number)
            search.append({"lr": rate, "validation_loss": loss})
            if steps is not None and steps < LEAST_TRIAL:
                default: float = candidate.rates[len(candidate.rates) // 2]
                text = f"a trial of {steps} step{'s'[: steps != 1]} is too short: using the default learning rate, {default:.3g}"
                self._note(candidate, f"{text}; see search.share, lr")
                return default
        found = {each["lr"]: each["validation_loss"] for each in search if each["validation_loss"] is not None}
        if not found:
            tried = ", ".join(f"{rate:.3g}" for rate in candidate.rates)
            raise DivergedError(
                f"diverged at every learning rate tried: {tried}",
                where=str(candidate.trials),
                hint="set a smaller one: --set 'lrs={MODEL: RATE}'",
            )
        best: float = min(found, key=lambda rate: found[rate])
        if best in (candidate.rates[0], candidate.rates[-1]):
            end, more = ("smallest", "smaller") if best == candidate.rates[0] else ("largest", "larger")
            text = f"learning rate {best:.3g} is the {end} tried: a {more} one may be better, see search.rates"
            self._note(candidate, text)
        return best

    def _trial(self, candidate: Candidate, settings: TrainConfig, number: int) -> tuple[float | None, int | None]:
        """Run a trial; return its final validation loss, None if it diverged, and its steps. Weights are deleted afterwards."""
        result = ended(settings.out)
        if result is None:
            emit = self._labelled(candidate, f"search {number} of {len(candidate.rates)}", quiet=True)
            try:
                result = self._in_subprocess(_train, (settings.model_dump_json(), resumable(settings.out)), emit)
            except DivergedError:
                result = {}
        for name in ("checkpoints", "model"):
            shutil.rmtree(settings.out / name, ignore_errors=True)
        loss = (result.get("validation") or {}).get("loss")
        return loss if loss is not None and math.isfinite(loss) else None, result.get("steps")

    def _train(self, candidate: Candidate, rate: float) -> Mapping[str, Any]:
        """Train with this learning rate, or resume; return the result of the run."""
        if (result := ended(candidate.run)) is not None:
            return result
        resume, settings = resumable(candidate.run), candidate.training(rate)
        self._note(candidate, f"{'resuming' if resume else 'training'}, learning rate {rate:.3g}")
        return self._in_subprocess(_train, (settings.model_dump_json(), resume), self._labelled(candidate, "training"))

    def _score(self, candidate: Candidate) -> list[dict[str, Any]]:
        config = self.checked.config
        self._note(candidate, "scoring")
        evaluation = EvalConfig(
            model=str(candidate.run),
            data=config.data,
            split=SPLIT,
            metric=config.metric,
            interval=config.interval,
            limit=config.limit,
            max_new_tokens=config.max_new_tokens,
            out=scored(candidate),
            seed=config.seed,
        )
        scores: list[dict[str, Any]] = self._in_subprocess(
            _eval, (evaluation.model_dump_json(),), self._labelled(candidate, "scoring")
        )["scores"]
        return scores

    def _in_subprocess(
        self, worker: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], emit: EventSink
    ) -> dict[str, Any]:
        if self.stop():
            raise Stopped("stopped")
        return launch.run_in_subprocess(worker, arguments, emit)

    # -- progress ---------------------------------------------------------------------------------------------

    def _note(self, candidate: Candidate, text: str) -> None:
        number = self.checked.candidates.index(candidate) + 1
        self.emit(Event("note", {"text": f"{number} of {len(self.checked.candidates)}, {candidate.title}: {text}"}))

    def _labelled(self, candidate: Candidate, phase: str, *, quiet: bool = False) -> EventSink:
        """Add the model and phase to the events of a process. `quiet`: for trials, whose events the training repeats."""

        def emit(event: Event) -> None:
            fields = {
                name: f"{candidate.title}, {phase}: {value}" if name in ("stage", "text") else value
                for name, value in event.fields.items()
            }
            details = ("note", "evaluation", "warning") if quiet else ("note",)
            self.emit(Event("detail" if event.name in details else event.name, fields))

        return emit

    # -- all models -------------------------------------------------------------------------------------------

    def select_best(self) -> CompareResult:
        """Mark the best model per metric; write the plots, the page and the final document."""
        from llmctl.metrics.best import System, best_of
        from llmctl.training import comparison_plot

        systems = [
            System(each.model, list(answers(each)), [score_of(score) for score in self.rows[each.model]["scores"]])
            for each in self.checked.candidates
            if self.rows[each.model]["status"] == "ok"
        ]
        if systems:
            found = best_of(self.checked.metrics, systems, seed=self.checked.config.seed)
            self.best = [asdict(each) for each in found]
        curves = {each.title: runs.metrics(each.run) for each in self.checked.candidates}
        title = f"{self.checked.task.name} on {self.checked.config.data.name}"
        comparison_plot.loss_plots(curves, self.out / "plots", title=title)
        result = CompareResult(self.document(), {each.model: each.title for each in self.checked.candidates})
        atomic.write_text(self.out / "compare.md", comparison_report.markdown(result.document, result.titles))
        self._write(result.document, finished=True)
        return result


# ---------------------------------------------------------------------------------------------------------------
# Worker processes


def _train(config_json: str, resume: bool, emit: EventSink) -> dict[str, Any]:
    config = TrainConfig.model_validate_json(config_json)
    checked = train.preflight(config, force=True, offline=True, resume=resume, in_worker=True)
    return train.train(checked, emit, force=True).document()


def _eval(config_json: str, emit: EventSink) -> dict[str, Any]:
    config = EvalConfig.model_validate_json(config_json)
    checked = evaluate.preflight(config, force=True, offline=True)
    return evaluate.evaluate(checked, emit, force=True).document()
