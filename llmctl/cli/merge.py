"""`llmctl merge`."""

from __future__ import annotations

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import number
from llmctl.cli.session import Session
from llmctl.workflows.export.spec import MergeConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("merge", MergeConfig, run, summary, positional="model", shared=options.WORK)


def run(session: Session) -> None:
    config = session.config(MergeConfig)
    from llmctl.workflows.export import run as workflow

    plan = workflow.preflight(config, force=session.force, offline=session.offline, tell=session.tell)
    if session.dry_run:
        return session.plan(config, plan.facts())
    document = workflow.merge(config, plan, session.tell, force=session.force)

    def show() -> None:
        size = number(document["weights_bytes"])
        print(f"{document['model']}: {size} bytes of {document['dtype']} in {number(document['seconds'])} s")

    session.finish(document, show)
    return None
