"""`llmctl generate`."""

from __future__ import annotations

import sys

import typer

from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import plain
from llmctl.cli.session import Session
from llmctl.workflows.generate.spec import GenerateConfig


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("generate", GenerateConfig, run, summary)


def run(session: Session) -> None:
    config = session.config(GenerateConfig)
    from llmctl.workflows.generate import run as workflow

    plan = workflow.preflight(
        config,
        force=session.force,
        offline=session.offline,
        stdin_is_tty=sys.stdin is None or sys.stdin.isatty(),
        tell=session.tell,
    )
    if session.dry_run:
        return session.plan(config, plan.facts())
    live = sys.stdout.isatty() and not session.json
    result = workflow.generate(config, plan, session.tell, stream=_show_piece if live else None)

    def show() -> None:
        if config.output is not None:
            count = len(result.completions)
            print(f"{count:,} answer{'s'[: count != 1]}: {config.output}")
        elif result.streamed:
            print()
        else:
            for line in result.lines():
                print(plain(line) if live else line)

    session.finish(result.document(), show)
    return None


def _show_piece(text: str) -> None:
    """A piece of an answer on a terminal, as soon as it is there."""
    sys.stdout.write(plain(text))
    sys.stdout.flush()
