"""`llmctl suggest`."""

from __future__ import annotations

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import number, table
from llmctl.cli.session import Session
from llmctl.workflows.suggest.spec import SuggestConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("suggest", SuggestConfig, run, summary, shared=(options.SET, *options.OUTPUT))


def run(session: Session) -> None:
    from llmctl.workflows.suggest.run import suggest
    from llmctl.workflows.train.forecast import gib

    document = suggest(session.config(SuggestConfig))

    def show() -> None:
        text = f", {document['tokens']:,} tokens to learn from" if document["tokens"] else ""
        print(f"{document['task']} in {gib(document['memory_bytes'])}{text}\n")
        rows = [
            [
                str(each["rank"]),
                each["model"],
                number(each["parameters"]),
                gib(each["memory_bytes"]),
                "; ".join(each["reasons"]),
            ]
            for each in document["suggestions"]
        ]
        table(("", "model", "weights", "memory", "why here"), rows, right=(0, 2, 3), names=(1,), least=(2, 3))

    session.finish(document, show)
