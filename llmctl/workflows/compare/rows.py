"""Build the row of a model from the files of its run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.store import runs
from llmctl.types import Answer, Interval, Score
from llmctl.workflows.compare.checks import SPLIT, Candidate

ROW: Final = (
    *(
        "model",
        "family",
        "status",
        "parameters",
        "tokens",
        "steps",
        "seconds",
        "tokens_per_second",
        "peak_memory_bytes",
    ),
    *("loss", "perplexity", "scores", "learning_rate", "search", "run"),
)
"""The keys of a row, in order; failed models also have `error`."""


def trained(result: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
    """The fields from a finished run. The loss is that of the best checkpoint, which is the saved model."""
    found = {name: result[name] for name in ("parameters", "tokens", "steps", "seconds", "peak_memory_bytes")}
    found["tokens_per_second"] = round(result["tokens"] / result["seconds"], 1) if result["seconds"] else None
    step = (result["best"] or {}).get("step")
    checks = [row for row in runs.metrics(candidate.run) if row["step"] == step and "validation_loss" in row]
    for row in checks[-1:]:
        found |= {"loss": row["validation_loss"], "perplexity": row.get("validation_perplexity")}
    return found


def so_far(candidate: Candidate) -> dict[str, Any]:
    """The progress of a failed run."""
    rows = [row for row in runs.metrics(candidate.run) if "tokens" in row]
    return {name: rows[-1][name] for name in ("tokens", "steps", "seconds") if rows and name in rows[-1]} | (
        {"steps": rows[-1]["step"]} if rows else {}
    )


def scored(candidate: Candidate) -> Path:
    return candidate.run / "evals" / SPLIT


def resumable(run: Path) -> bool:
    """Whether there is a stopped or killed run to resume. A failed run starts over."""
    return (run / runs.RUN).is_file() and runs.read(run).status != "failed"


def ended(run: Path) -> dict[str, Any] | None:
    """The result of a finished run, else None."""
    if not (run / runs.RUN).is_file():
        return None
    record = runs.read(run)
    return record.result if record.status == "finished" else None


def answers(candidate: Candidate) -> Iterator[Answer]:
    """The answers of a model on the test split, read from its evaluation."""
    with (scored(candidate) / "predictions.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            likely = {name: row[name] for name in ("logprob", "tokens", "bytes") if name in row}
            yield Answer(row["id"], row["prediction"], tuple(row["references"]), **likely)


def score_of(fields: Mapping[str, Any]) -> Score:
    """Parse a score written by `eval`; null, which stands for values that are not finite, becomes NaN."""
    ci = dict(fields["ci"]) if fields["ci"] else None
    for place, names in ((fields := dict(fields), ("value",)), (ci or {}, ("low", "high"))):
        place |= {name: math.nan for name in names if name in place and place[name] is None}
    return Score(**fields | {"ci": Interval(**ci) if ci else None})
