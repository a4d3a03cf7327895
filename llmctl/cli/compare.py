"""`llmctl compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import typer

from llmctl import config as configuration
from llmctl.cli import options
from llmctl.cli.main import VerbRow
from llmctl.cli.render import columns, fancy, from_here, number, plain, table, width
from llmctl.cli.session import Session
from llmctl.errors import UsageError
from llmctl.workflows.compare.spec import CompareConfig

GAP: Final = 3
"""Columns between two cells, at most."""
RESUME = options.Option("--resume", "go on: llmctl compare --resume DIR, or the same command again", "Main")


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("compare", CompareConfig, run, summary, positional="out", extra=(RESUME,))


def run(session: Session) -> None:
    resume = bool(session.extra["resume"])
    config = (_with_recorded_settings(session) if resume else session).config(CompareConfig)
    from llmctl.workflows.compare import checks as compare_checks

    checked = compare_checks.preflight(
        config, force=session.force, offline=session.offline, resume=resume, tell=session.tell
    )
    if session.dry_run:
        return session.plan(checked.resolved, checked.facts())
    from llmctl.workflows.compare import run as workflow

    result = workflow.compare(checked, session.tell, force=session.force)
    if result.failed:
        session.fail(workflow.refusal(result), result.document, lambda: _show(result))
    session.finish(result.document, lambda: _show(result))
    return None


def _with_recorded_settings(session: Session) -> Session:
    """The settings that the comparison was begun with lie under what is asked now."""
    block = session.block()
    recorded = Path(block["out"]) / "config.yaml" if isinstance(block.get("out"), str) else None
    if recorded is None:
        raise UsageError("--resume needs to know which comparison", hint="llmctl compare --resume DIR")
    if not recorded.is_file():
        if "data" not in block:
            raise UsageError(f"{block['out']} is no comparison that can go on", hint="name the folder of one")
        return session
    from llmctl.workflows.compare.checks import check_same

    check_same(configuration.read_recipe(recorded).get("compare") or {}, block)
    return replace(session, recipes=(recorded, *session.recipes))


def _show(result: object) -> None:
    from llmctl.workflows.compare import report
    from llmctl.workflows.compare.run import Result

    assert isinstance(result, Result)
    lines = [report.headings(result.document), *report.cells(result.document, result.titles)]
    for part in _parts(lines, width(sys.stdout) if fancy(sys.stdout) else None):
        heads, *rows = ([line[place] for place in part] for line in lines)
        table(heads, rows, right=range(1, len(heads)))
    for line in report.remarks(result.document, result.titles):
        print(plain(line))
    print(f"{from_here(result.document['out'])}/compare.md  ({number(result.document['seconds'])} s)")


def _parts(lines: Sequence[Sequence[str]], room: int | None) -> list[list[int]]:
    """The columns of as many tables as it takes for none to be cut, each with the first column."""
    widths = [max(columns(cell) for cell in column) + GAP for column in zip(*lines, strict=True)]
    parts: list[list[int]] = [[0]]
    for place in range(1, len(widths)):
        if room is not None and sum(widths[each] for each in (*parts[-1], place)) > room and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(place)
    return parts
