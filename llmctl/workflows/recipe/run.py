"""`run`: run the stages of a recipe in order. Unchanged stages are skipped, interrupted ones resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from typing import Any, Literal

from llmctl import config as configuration
from llmctl.config import Spec
from llmctl.errors import Failure, LlmctlError, UsageError
from llmctl.store import atomic
from llmctl.types import Event, EventSink
from llmctl.verbs import Context, read_recorded
from llmctl.workflows.recipe import record as stage
from llmctl.workflows.recipe.decide import Decision, decide, lies_in, plan
from llmctl.workflows.recipe.load import Stage, load, verb_of

__all__ = ["Outcome", "document_of", "load", "plan", "refusal_of", "run", "verb_of"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a stage."""

    verb: str
    status: Literal["ran", "skipped", "failed"]
    why: str
    seconds: float
    document: Mapping[str, Any]
    output: str | None = None
    """Path of its output; distinguishes several stages of one verb."""
    error: LlmctlError | None = None

    def row(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "output": self.output,
            "status": self.status,
            "why": self.why,
            "seconds": round(self.seconds, 3),
            "document": dict(self.document),
            **({"error": {"kind": self.error.kind, "message": str(self.error)}} if self.error else {}),
        }


def run(
    all_stages: Sequence[Stage],
    emit: EventSink,
    *,
    force: bool = False,
    offline: bool = False,
) -> list[Outcome]:
    """Run every stage that has changed. If a stage fails, its error is raised; its `document` covers all stages so far."""
    decisions = plan(all_stages, force=force)
    context = Context(emit, force=force, offline=offline)
    _check(all_stages, decisions, context)
    outcomes: list[Outcome] = []
    for each, decision in zip(all_stages, decisions, strict=True):
        started = time.monotonic()
        settled = decide(each, (), force=force) if decision.pending else decision
        place, verb = each.makes, each.verb.name
        made = None if place is None else str(place)
        several = sum(other.verb.name == verb for other in all_stages) > 1
        name = f"{verb} {made}" if several and made else verb
        # Skipped stages are listed in the result, so they are only a detail here.
        event = "detail" if settled.status == "skipped" else "note"
        emit(Event(event, {"text": f"{name}: {_now(settled.status)}, {settled.why}"}))
        if settled.record is not None and place is not None:
            document: Mapping[str, Any] = stage.recalled(settled.record, place)
            outcomes.append(Outcome(verb, "skipped", settled.why, 0.0, document, made))
            continue
        try:
            document = _do(each, settled, context)
        except LlmctlError as error:
            seconds = time.monotonic() - started
            each.verb.failed(each.config.model_dump(), Failure.of(error), context)
            failed = Outcome(verb, "failed", settled.why, seconds, error.document, made, error)
            error.document = document_of([*outcomes, failed])
            raise
        outcomes.append(Outcome(verb, "ran", settled.why, time.monotonic() - started, document, made))
    return outcomes


def document_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The fields of `--json`."""
    return {"stages": [outcome.row() for outcome in outcomes]}


def refusal_of(outcomes: Sequence[Outcome]) -> LlmctlError | None:
    """The first error implied by a stage's output, such as rejected records, even if the stage was skipped.

    Later stages have run by then; the error still sets the exit code.
    """
    return next((found for each in outcomes if (found := verb_of(each.verb).refusal(each.document))), None)


def _now(status: str) -> str:
    return {"runs": "running", "resumes": "resuming"}.get(status, status)


def _check(all_stages: Sequence[Stage], decisions: Sequence[Decision], context: Context) -> None:
    """Raise the errors that can be found before the first stage starts."""
    for number, (each, decision) in enumerate(zip(all_stages, decisions, strict=True)):
        if decision.record is not None:
            continue
        if not decision.pending:
            each.verb.check(_config(each, decision), _context(decision, context))
            continue
        for path in each.reads:
            made_before = any(lies_in(path, other.makes) for other in all_stages[:number])
            if not path.exists() and not has_magic(str(path)) and not made_before:
                raise UsageError(
                    f"no such file or folder: {path}", where=each.verb.name, hint="no earlier stage creates it"
                )
        each.verb.check_early(each.config)
        if each.makes is not None:
            atomic.refuse_existing(each.makes, force=decision.status != "refused")
            atomic.check_writable(each.makes)


def _do(each: Stage, decision: Decision, context: Context) -> Mapping[str, Any]:
    config, context = _config(each, decision), _context(decision, context)
    plan = each.verb.check(config, context)
    place = each.makes
    with stage.claimed(place) if place is not None else contextlib.nullcontext():
        output = each.verb.run(plan, context)
        # A refusal that the document implies (rejected records) is raised after all stages.
        if output.refusal and not each.verb.refusal(output.document):
            output.refusal.document = output.document
            raise output.refusal
        if place is not None:
            stage.write_record(each.verb.name, each.config, decision.inputs, place, output.document)
    return output.document


def _context(decision: Decision, context: Context) -> Context:
    switches = frozenset({"resume"}) if decision.status == "resumes" else frozenset[str]()
    return replace(context, force=context.force or decision.owned, switches=switches)


def _config(each: Stage, decision: Decision) -> Spec:
    """The settings of a stage; a resumed stage uses its recorded settings as defaults."""
    if decision.status != "resumes":
        config: Spec = each.config
        return config
    recorded = read_recorded(each.verb, each.config.out)
    each.verb.check_same(recorded, each.block)
    spec = each.verb.spec
    return configuration.validate(spec, configuration.merge(configuration.combine(spec, [recorded]), each.block))
