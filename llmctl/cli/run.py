"""`llmctl run`: run the stages of a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmctl.cli import options
from llmctl.cli.render import table
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import LlmctlError, Stopped, UsageError
from llmctl.readable import number
from llmctl.recipes import parse_yaml
from llmctl.training import world
from llmctl.workflows.recipe import run as workflow

RECIPE = options.Argument("recipe", "a YAML file whose top-level keys are verbs", is_path=True)
SEED = options.Option("--seed", "random seed of every stage", "Main", "N")
FORCE = options.Option("--force", "run every stage again and overwrite existing output", options.CONFIG_PANEL)


def run(session: Session) -> None:
    world.refuse("run")
    recipes = [Path(session.extra["recipe"]), *session.recipes]
    stages = workflow.load(recipes, sets=session.sets, seed=_seed(session.extra["seed"]), note=session.note)
    if session.dry_run:
        decisions = workflow.plan(stages, force=session.force)
        rows = [
            (stage.verb.name, decision.status, decision.why) for stage, decision in zip(stages, decisions, strict=True)
        ]
        keys = ("verb", "status", "why")
        document = {"dry_run": True, "stages": [dict(zip(keys, row, strict=True)) for row in rows]}
        session.finish(document, lambda: table(keys, rows))
        return
    try:
        outcomes = workflow.run(stages, session.emit, force=session.force, offline=session.offline)
    except LlmctlError as error:
        if isinstance(error, Stopped):
            error.hint = f"to continue: {_again(session)}"
        shown: Sequence[Mapping[str, Any]] = error.document.get("stages") or ()
        session.fail(error, error.document, lambda: _show(shown))
    done = workflow.document_of(outcomes)
    if refused := workflow.refusal_of(outcomes):
        session.fail(refused, done, lambda: _show(done["stages"]))
    session.finish(done, lambda: _show(done["stages"]))


def _again(session: Session) -> str:
    """The same command line without `--force`, which would start over."""
    words = ["llmctl", "run", str(session.extra["recipe"])]
    words += [word for path in session.recipes for word in ("--config", str(path))]
    words += [word for each in session.sets for word in ("--set", each)]
    words += ["--seed", session.extra["seed"]] if session.extra["seed"] is not None else []
    return shlex.join([*words, *(["--offline"] if session.offline else [])])


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        print(f"{row['verb']:<10}  {plain(_outcome(row))}")
        if row["document"]:
            for line in workflow.verb_of(row["verb"]).summary(row["document"]):
                print(f"  {plain(line)}")


def _outcome(row: Mapping[str, Any]) -> str:
    """The outcome of a stage with its duration or reason. For gates and stops, the error printed later has the details."""
    if error := row.get("error"):
        ends = {"gate": "gate not met", "stopped": "stopped"}
        return ends.get(error["kind"], f"failed: {error['message']}")
    took = f"{number(round(row['seconds'], 1))} s" if row["status"] == "ran" else row["why"]
    return f"{row['status']:<7}  {took}"


def _seed(text: str | None) -> int | None:
    if text is None:
        return None
    value = parse_yaml(text, "--seed")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"--seed must be an integer >= 0, not {text!r}")
    return value


PAGE = options.Page(
    run,
    arguments=(RECIPE,),
    extra=(SEED,),
    shared=tuple(FORCE if option.name == FORCE.name else option for option in options.SHARED),
    examples=(
        "llmctl run examples/poems-zh.yaml",
        "llmctl run recipe.yaml --set train.model=llama:tiny --seed 1",
        "llmctl run recipe.yaml --dry-run",
    ),
)
