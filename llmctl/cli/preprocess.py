"""`llmctl preprocess`."""

from __future__ import annotations

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import number
from llmctl.cli.session import Session
from llmctl.workflows.preprocess.spec import PreprocessConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("preprocess", PreprocessConfig, run, summary, positional="inputs")


def run(session: Session) -> None:
    config = session.config(PreprocessConfig)
    from llmctl.workflows.preprocess import run as workflow

    plan = workflow.preflight(config, force=session.force, offline=session.offline)
    if session.dry_run:
        return session.plan(config, plan.facts())
    result = workflow.preprocess(config, plan, session.tell, force=session.force)

    def show() -> None:
        records = result.document()["records"]
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in records["dropped"].items() if count)
        print(
            f"{records['read']:,} records read, {records['kept']:,} kept" + (f", dropped: {dropped}" if dropped else "")
        )
        tokens = result.document()["tokens"]
        for split, count in result.document()["splits"].items():
            print(f"  {split:<12}{count:>10,} records{tokens.get(split, 0):>14,} tokens")
        print(f"{result.document()['out']}  ({number(result.document()['seconds'])} s)")

    if refused := workflow.refusal(result.document()):
        session.fail(refused, result.document(), show)
    session.finish(result.document(), show)
    return None
