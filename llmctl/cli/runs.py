"""`llmctl runs`: list, show and compare training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.cli import options
from llmctl.cli.render import readable, table
from llmctl.cli.session import Session, to_yaml
from llmctl.errors import UsageError
from llmctl.readable import number
from llmctl.registry import near
from llmctl.types import Event
from llmctl.workflows.inspect import runs as workflow

WORDS = options.Argument(
    "words",
    "list [FOLDER], show RUN or compare RUN RUN… (default: list)",
    required=False,
    repeatable=True,
    choices=workflow.ACTIONS,
    is_path=True,
)


def run(session: Session) -> None:
    words = list(session.extra["words"] or ())
    action = words.pop(0) if words and words[0] in workflow.ACTIONS else "list"
    folders = [Path(word) for word in words]
    if action == "compare":
        document = workflow.compare(folders)
        session.finish(document, lambda: _show_comparison(document))
    elif action == "show":
        if len(folders) != 1:
            raise UsageError("runs show needs exactly one run", hint="see: llmctl runs list")
        document = workflow.describe(folders[0])
        session.finish(document, lambda: print(to_yaml(_short(document)), end=""))
    else:
        if len(folders) > 1:
            meant = near(words[0], workflow.ACTIONS) if not folders[0].exists() else None
            raise UsageError(
                "runs list accepts one folder", hint=meant or "to compare runs: llmctl runs compare RUN RUN"
            )
        document = workflow.listing(folders[0] if folders else Path("."))
        if not document["runs"]:
            session.emit(Event("note", {"text": f"no runs under {document['folder']}"}))
        session.finish(document, lambda: _show_list(document))


def _show_list(document: Mapping[str, Any]) -> None:
    if not document["runs"]:
        return
    rows = []
    for each in document["runs"]:
        best = each.get("best")
        rows.append(
            [
                each["run"],
                each["status"],
                each.get("model") or "-",
                each.get("task") or "-",
                "-" if each.get("steps") is None else number(each["steps"]),
                f"{best['metric']} {number(best['value'])}" if best else "-",
                each.get("ended") or each.get("started") or "-",
            ]
        )
    headings = ("run", "status", "model", "task", "steps", "best", "when")
    table(headings, rows, right=(4,), least=(3, 4, 6, 2, 5, 1))


def _short(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run for display, without empty values."""
    return {name: readable(value) for name, value in document.items() if value not in (None, "", [], {}, ())}


def _show_comparison(document: Mapping[str, Any]) -> None:
    names = [f"{path} ({status})" for path, status in zip(document["runs"], document["status"], strict=True)]
    for title in ("config", "origin", "scores"):
        rows = [[name, *map(_cell, values)] for name, values in document[title].items()]
        if rows:
            print(f"{title}:")
            table(("", *names), rows)
            print()
    if not document["config"] and not document["origin"]:
        print("no differences in configuration or origin")


def _cell(value: Any) -> str:
    return "-" if value is None else number(readable(value))


PAGE = options.Page(
    run,
    arguments=(WORDS,),
    shared=options.OUTPUT,
    examples=("llmctl runs list runs", "llmctl runs show runs/poems", "llmctl runs compare runs/one runs/two"),
)
