"""List, describe and compare runs. Nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmctl import registry
from llmctl.config import combine
from llmctl.errors import IntegrityError, UsageError
from llmctl.recipes import parse_yaml
from llmctl.settings import flat
from llmctl.store import runs
from llmctl.store.locks import is_locked

DIED = "died"
"""The status of a run that is recorded as running but not locked by any process."""


def listing(folder: Path) -> dict[str, Any]:
    """Return the document of `runs list`: every run under `folder`. Raises `UsageError` if the folder does not exist."""
    if not folder.is_dir():
        alone = folder.parent == Path(".")
        hint = registry.near_path(folder, *(ACTIONS if alone else ())) or "choose a folder that contains runs"
        raise UsageError(f"no such folder: {folder}", hint=hint)
    return {"folder": str(folder), "runs": [_row(path) for path in runs.under(folder)]}


def describe(run: Path) -> dict[str, Any]:
    """Return the document of `runs show`: the record, configuration and scores of a run."""
    record = runs.read(run)
    return {
        "run": str(run),
        **record.model_dump(exclude={"settings"}),
        "status": status(run, record),
        "config": _config(run),
        "scores": list(_scores(run)),
        "last_metrics": last_metrics(run),
    }


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the document of `runs compare`: per key a list with one value per run, None if a run has none.

    `config` and `origin` hold the differences, `scores` every measurement: for evaluations, the newest value of each
    metric and split and, where they differ, the data (`.data`), number of records (`.n`) and signature (`.signature`).
    """
    if len(folders) < 2:
        raise UsageError("runs compare needs at least two runs", hint="llmctl runs compare RUN RUN")
    described = [describe(folder) for folder in folders]
    origins = [
        {name: run[name] for name in ("model", "task", "git", "parents", "versions", "hardware")} for run in described
    ]
    return {
        "runs": [run["run"] for run in described],
        "status": [run["status"] for run in described],
        "config": _differences([run["config"] for run in described]),
        "origin": _differences(origins),
        "scores": _scored([_measured(run) for run in described], [_newest(run["scores"]) for run in described]),
    }


ACTIONS = ("list", "show", "compare")


def status(run: Path, record: runs.RunRecord) -> str:
    """The current status: a run recorded as running counts as running only while its lock is held."""
    return DIED if record.status == "running" and not is_locked(run) else record.status


def last_metrics(run: Path) -> dict[str, Any]:
    """The last complete line of `metrics.jsonl`."""
    rows = runs.metrics(run)
    return rows[-1] if rows else {}


def _row(path: Path) -> dict[str, Any]:
    try:
        record = runs.read(path)
    except IntegrityError as error:
        return {"run": str(path), "status": "unreadable", "error": str(error)}
    return {
        "run": str(path),
        "status": status(path, record),
        "verb": record.verb,
        "model": record.model,
        "task": record.task,
        "steps": record.result.get("steps", last_metrics(path).get("step")),
        "best": record.result.get("best"),
        "started": record.started,
        "ended": record.ended,
    }


def _config(run: Path) -> dict[str, Any]:
    """The resolved configuration of the run."""
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"not text in UTF-8: {error}", where=str(path)) from error
    recipe = parse_yaml(text, str(path))
    return {name: _current(name, block) for name, block in recipe.items()} if isinstance(recipe, dict) else {}


def _current(verb: str, block: Any) -> Any:
    """A verb's settings under today's names."""
    row = registry.find_verb(verb)
    if row is None or row.recipe == "no" or not isinstance(block, dict):
        return block
    return combine(registry.load_verb(row).spec, [block])


def _scores(run: Path) -> Iterator[dict[str, Any]]:
    """Scores from `RUN/evals/*/scores.json`, oldest first, each with the name, split, data and time of its evaluation."""
    found = []
    for path in (run / "evals").glob("*/scores.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            origin = {name: document[name] for name in ("split", "data", "at") if document.get(name) is not None}
            scores = [{"evaluation": path.parent.name, **origin, **score} for score in document["scores"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError("was not written by llmctl eval", where=str(path)) from error
        # Evaluations within the same second are numbered -2, …, -10.
        found.append((str(origin.get("at", "")), len(path.parent.name), path.parent.name, scores))
    for *_, scores in sorted(found, key=lambda each: each[:3]):
        yield from scores


def _measured(run: Mapping[str, Any]) -> dict[str, Any]:
    """Every number in the result of training, by name."""
    return {
        name: value
        for name, value in flat(run["result"]).items()
        if isinstance(value, int | float) and value is not True
    }


def _newest(scores: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The newest score per `split.metric`; `scores` are sorted oldest first."""
    return {f"{score.get('split', score['evaluation'])}.{score['metric']}": score for score in scores}


def _scored(measured: Sequence[Mapping[str, Any]], newest: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Results of training and evaluations, side by side."""
    found = _side_by_side(measured)
    for name, scores in _side_by_side(newest).items():
        found[name] = [score and score["value"] for score in scores]
        for fact in ("data", "n", "signature"):
            values = [score and score.get(fact) for score in scores]
            if len({value for value in values if value is not None}) > 1:
                found[f"{name}.{fact}"] = values
    return found


def _side_by_side(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _differences(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    together = _side_by_side([flat(row) for row in rows])
    return {name: values for name, values in together.items() if any(value != values[0] for value in values)}
