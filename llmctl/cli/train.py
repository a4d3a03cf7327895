"""`llmctl train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmctl import config as configuration
from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import number
from llmctl.cli.session import Session
from llmctl.errors import UsageError
from llmctl.types import Event
from llmctl.workflows.train.spec import TrainConfig

if TYPE_CHECKING:
    from llmctl.workflows.train.checks import Checked
    from llmctl.workflows.train.forecast import Forecast

RESUME = options.Option("--resume", "go on with the run: llmctl train --resume RUN, or the same command again", "Main")
MEASURE = options.Option(
    "--measure", "with --dry-run: make a few steps and forget them, for the time it takes", "Budget"
)


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("train", TrainConfig, run, summary, positional="out", extra=(RESUME, MEASURE))


def run(session: Session) -> None:
    resume = bool(session.extra["resume"])
    config = (_with_recorded_settings(session) if resume else session).config(TrainConfig)
    from llmctl.workflows.train import fitting
    from llmctl.workflows.train import forecast as forecasting
    from llmctl.workflows.train import run as workflow

    if session.extra["measure"]:
        if not session.dry_run:
            raise UsageError("--measure goes with --dry-run", hint="add --dry-run")
        forecasting.check_measurable(config)
    checked = workflow.preflight(config, force=session.force, offline=session.offline, resume=resume, tell=session.tell)
    made = forecasting.forecast(config, checked)
    if session.dry_run:
        return _plan(session, config, checked, made)
    if not made.fits:
        told = fitting.refusal(made, fitting.changes(config, checked))
        session.tell(Event("warning", {"text": f"{told}; {told.hint}"}))
    result = workflow.train(config, checked, session.tell, force=session.force)
    session.finish(result.document(), lambda: _show(result.document()))
    return None


def _plan(session: Session, config: TrainConfig, checked: Checked, made: Forecast) -> None:
    """The answer to `--dry-run`; a run that does not fit is refused with what would make it fit."""
    from llmctl.workflows.train import fitting

    facts, shown = made.facts(), made.told()
    if not made.fits:
        changes = fitting.changes(config, checked)
        refusal = fitting.refusal(made, changes)
        facts["changes"] = [each.facts() for each in changes]
        return session.plan(checked.resolved, checked.facts() | {"forecast": facts}, {"forecast": shown}, refusal)
    if session.extra["measure"]:
        from llmctl.workflows.train.measure import rehearse

        found = rehearse(config, checked, session.tell)
        facts["measured"], shown["measured"] = found.facts(made), found.told(made)
    return session.plan(checked.resolved, checked.facts() | {"forecast": facts}, {"forecast": shown})


def _with_recorded_settings(session: Session) -> Session:
    """The settings that the run was begun with lie under what is asked now."""
    block = session.block()
    recorded = Path(block["out"]) / "config.yaml" if isinstance(block.get("out"), str) else None
    if recorded is None:
        raise UsageError("--resume needs to know which run", hint="llmctl train --resume RUN; see: llmctl runs list")
    if not recorded.is_file():
        if "data" not in block:
            raise UsageError(f"{block['out']} is no run that can go on", hint="see: llmctl runs list")
        return session
    from llmctl.workflows.train.resume import check_same

    check_same(configuration.read_recipe(recorded).get("train") or {}, block)
    return replace(session, recipes=(recorded, *session.recipes))


def _show(document: dict[str, object]) -> None:
    scores = document["validation"]
    shown = ", ".join(f"{name} {number(value)}" for name, value in scores.items()) if isinstance(scores, dict) else ""
    print(
        f"{number(document['steps'])} steps, {number(document['tokens'])} tokens in {number(document['seconds'])} s "
        f"({number(document['tokens_per_second'])} tokens/s), {number(document['parameters'])} parameters"
    )
    print(f"training loss {number(document['train_loss'])}" + (f", validation {shown}" if shown else ""))
    best, of = document["best"], ""
    if isinstance(best, dict) and best["step"] != document["steps"]:
        of = f", of step {number(best['step'])}: best {best['metric']} {number(best['value'])}"
    print(f"model: {document['model']}{of}")
