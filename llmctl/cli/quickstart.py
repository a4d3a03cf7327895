"""`llmctl quickstart`."""

from __future__ import annotations

from typing import Any

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import number, plain, table
from llmctl.cli.session import Session
from llmctl.workflows.quickstart.spec import QuickstartConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("quickstart", QuickstartConfig, run, summary)


def run(session: Session) -> None:
    config = session.config(QuickstartConfig)
    from llmctl.workflows.quickstart import run as workflow

    out = workflow.preflight(config, force=session.force)
    if session.dry_run:
        todo = workflow.steps(config, out)
        return session.plan(config, {"out": str(out), "commands": workflow.commands_of(todo)})
    result = workflow.quickstart(config, out, session.tell, force=session.force)
    session.finish(result.document(), lambda: _show(result.document()))
    return None


def _show(document: dict[str, Any]) -> None:
    rows = [(row["metric"], number(row["value"]), row["what"]) for row in (*document["scores"], *document["baselines"])]
    table(("metric", "value", "of"), sorted(rows, key=lambda row: row[0]), right=(1,))
    print()
    for sample in document["samples"]:
        if "reference" in sample:
            print(f"{plain(sample['prompt'])}  →  {plain(sample['text'])}   (right: {plain(sample['reference'])})")
        else:
            print(f"\n{plain(sample['prompt'] + sample['text'])}")
    print(f"\n{number(document['seconds'])} s; everything is in {document['out']}. Go on with:")
    for command in document["next"]:
        print(f"  {command}")
