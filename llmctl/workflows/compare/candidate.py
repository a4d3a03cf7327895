"""One model of a comparison: search its learning rate, train it, score it; each step in a process of its own."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmctl.errors import DivergedError, LlmctlError, Stopped
from llmctl.training import launch
from llmctl.types import Event, EventSink
from llmctl.workflows.compare.checks import SPLIT, Candidate, ComparePlan
from llmctl.workflows.compare.rows import ROW, ended, resumable, scored, so_far, trained
from llmctl.workflows.evaluate import run as evaluate
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.train import run as train
from llmctl.workflows.train.spec import TrainConfig

LEAST_TRIAL: Final = 10
"""Fewest steps of a meaningful trial: in shorter ones the warm-up is not over and the largest rate would always win."""


class CandidateRunner:
    """Makes the row of one model. What is already in its folder is kept, so an interrupted runner can be repeated."""

    def __init__(self, plan: ComparePlan, candidate: Candidate, emit: EventSink, stop: Callable[[], bool]) -> None:
        self.plan, self.candidate, self.emit, self.stop = plan, candidate, emit, stop

    def row(self) -> dict[str, Any]:
        """Train and score the model; an error becomes part of the row. Raises `Stopped` after a stop signal."""
        candidate = self.candidate
        row: dict[str, Any] = dict.fromkeys(ROW) | {
            "model": candidate.model,
            "family": candidate.plan.family,
            "status": "failed",
            "parameters": candidate.parameters,
            "scores": [],
            "search": [],
            "run": str(candidate.run),
        }
        try:
            row["learning_rate"] = self._rate(row["search"])
            row |= trained(self._train(row["learning_rate"]), candidate)
            row["scores"] = self._score()
            row["status"] = "ok"
        except Stopped:
            raise
        except LlmctlError as error:
            row |= so_far(candidate)
            row["error"] = {"kind": error.kind, "message": str(error), "hint": error.hint}
            self.emit(Event("warning", {"text": f"{candidate.title} failed: {error}"}))
        return row

    def note(self, text: str) -> None:
        number = self.plan.candidates.index(self.candidate) + 1
        self.emit(Event("note", {"text": f"{number} of {len(self.plan.candidates)}, {self.candidate.title}: {text}"}))

    def remove_trials(self) -> None:
        """Delete the runs of the search, which a finished row no longer needs."""
        shutil.rmtree(self.candidate.trials, ignore_errors=True)
        with contextlib.suppress(OSError):  # other models still have trials
            self.candidate.trials.parent.rmdir()

    # -- learning rate ----------------------------------------------------------------------------------------

    def _rate(self, search: list[dict[str, Any]]) -> float:
        """Return the learning rate with the lowest validation loss; append every trial to `search`."""
        rates = self.candidate.rates
        if len(rates) == 1:
            return rates[0]
        for number, rate in enumerate(rates, 1):
            self.note(f"search {number} of {len(rates)}, learning rate {rate:.3g}")
            loss, steps = self._trial(self.candidate.trial(rate, self.plan.config.search.share), number)
            search.append({"lr": rate, "validation_loss": loss})
            if steps is not None and steps < LEAST_TRIAL:
                default = rates[len(rates) // 2]
                text = f"a trial of {steps} step{'s'[: steps != 1]} is too short: using the default learning rate, {default:.3g}"
                self.note(f"{text}; see search.share, lr")
                return default
        found = {each["lr"]: each["validation_loss"] for each in search if each["validation_loss"] is not None}
        if not found:
            tried = ", ".join(f"{rate:.3g}" for rate in rates)
            raise DivergedError(
                f"diverged at every learning rate tried: {tried}",
                where=str(self.candidate.trials),
                hint="set a smaller one: --set 'lrs={MODEL: RATE}'",
            )
        best: float = min(found, key=lambda rate: found[rate])
        if best in (rates[0], rates[-1]):
            end, more = ("smallest", "smaller") if best == rates[0] else ("largest", "larger")
            self.note(f"learning rate {best:.3g} is the {end} tried: a {more} one may be better, see search.rates")
        return best

    def _trial(self, settings: TrainConfig, number: int) -> tuple[float | None, int | None]:
        """Run a trial; return its final validation loss, None if it diverged, and its steps. Weights are deleted afterwards."""
        result = ended(settings.out)
        if result is None:
            emit = self._labelled(f"search {number} of {len(self.candidate.rates)}", quiet=True)
            try:
                result = self._train_in_subprocess(settings, emit)
            except DivergedError:
                result = {}
        for name in ("checkpoints", "model"):
            shutil.rmtree(settings.out / name, ignore_errors=True)
        loss = (result.get("validation") or {}).get("loss")
        return loss if loss is not None and math.isfinite(loss) else None, result.get("steps")

    # -- training and scoring ---------------------------------------------------------------------------------

    def _train(self, rate: float) -> Mapping[str, Any]:
        """Train with this learning rate, or resume; return the result of the run."""
        if (result := ended(self.candidate.run)) is not None:
            return result
        begins = "resuming" if resumable(self.candidate.run) else "training"
        self.note(f"{begins}, learning rate {rate:.3g}")
        return self._train_in_subprocess(self.candidate.training(rate), self._labelled("training"))

    def _score(self) -> list[dict[str, Any]]:
        config = self.plan.config
        self.note("scoring")
        evaluation = EvalConfig(
            model=str(self.candidate.run),
            data=config.data,
            split=SPLIT,
            metric=config.metric,
            interval=config.interval,
            limit=config.limit,
            max_new_tokens=config.max_new_tokens,
            out=scored(self.candidate),
            seed=config.seed,
        )
        document = self._in_subprocess(_eval, (evaluation.model_dump_json(),), self._labelled("scoring"))
        scores: list[dict[str, Any]] = document["scores"]
        return scores

    def _train_in_subprocess(self, settings: TrainConfig, emit: EventSink) -> dict[str, Any]:
        arguments = (settings.model_dump_json(), resumable(settings.out), dict(self.candidate.plan.parents))
        return self._in_subprocess(_train, arguments, emit)

    def _in_subprocess(
        self, worker: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], emit: EventSink
    ) -> dict[str, Any]:
        if self.stop():
            raise Stopped("stopped")
        return launch.run_in_subprocess(worker, arguments, emit)

    def _labelled(self, phase: str, *, quiet: bool = False) -> EventSink:
        """Add the model and phase to the events of a process. `quiet`: for trials, whose events the training repeats."""

        def emit(event: Event) -> None:
            fields = {
                name: f"{self.candidate.title}, {phase}: {value}" if name in ("stage", "text") else value
                for name, value in event.fields.items()
            }
            details = ("note", "evaluation", "warning") if quiet else ("note",)
            self.emit(Event("detail" if event.name in details else event.name, fields))

        return emit


# ---------------------------------------------------------------------------------------------------------------
# Worker processes


def _train(config_json: str, resume: bool, parents: Mapping[str, str], emit: EventSink) -> dict[str, Any]:
    config = TrainConfig.model_validate_json(config_json)
    plan = train.preflight(config, force=True, offline=True, resume=resume, in_worker=True, parents=parents)
    return train.train(plan, emit, force=True).document()


def _eval(config_json: str, emit: EventSink) -> dict[str, Any]:
    config = EvalConfig.model_validate_json(config_json)
    plan = evaluate.preflight(config, force=True, offline=True)
    return evaluate.evaluate(plan, emit, force=True).document()
