"""`llmctl eval`."""

from __future__ import annotations

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import from_here, number, plain, table
from llmctl.cli.session import Session
from llmctl.workflows.evaluate.spec import EvalConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("eval", EvalConfig, run, summary)


def run(session: Session) -> None:
    config = session.config(EvalConfig)
    from llmctl.workflows.evaluate import run as workflow

    checked = workflow.preflight(config, force=session.force, offline=session.offline, tell=session.tell)
    if session.dry_run:
        return session.plan(config, checked.facts())
    result = workflow.evaluate(config, checked, session.tell, force=session.force)
    if refused := workflow.finish(result):
        session.fail(refused, result.document(), lambda: _show(result))
    session.finish(result.document(), lambda: _show(result))
    return None


def _show(result: object) -> None:
    from llmctl.metrics.report import shown
    from llmctl.workflows.evaluate.run import Result

    assert isinstance(result, Result)
    rows = [
        (
            score.metric,
            shown(score),
            f"{number(score.ci.low)} – {number(score.ci.high)}" if score.ci else "",
            score.n,
            score.signature,
        )
        for score in result.scores
    ]
    table(
        ("metric", "value", "95 % interval" if _level(result) == 0.95 else "interval", "n", "signature"),
        rows,
        right=(1, 3),
    )
    for each in result.comparison:
        print(
            f"{each['metric']}: {number(each['difference'])} against the baseline, "
            f"p {number(each['p_bootstrap'])} (bootstrap), {number(each['p_randomization'])} (randomisation)"
        )
    for gate in result.gates:
        print(f"{'met' if gate.met else 'NOT MET'}: {gate.require}")
    if result.predictions:
        print(f"predictions: {plain(from_here(result.predictions))}")


def _level(result: object) -> float | None:
    scores = getattr(result, "scores", ())
    return scores[0].ci.level if scores and scores[0].ci else None
