"""Format a comparison as a table and as the page `compare.md`. Pure functions of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmctl.metrics.best import LEVEL, RESAMPLES
from llmctl.metrics.report import escaped, rounded

MARK: Final = "*"
HEADINGS: Final = ("model", "parameters", "lr", "tokens", "tokens/s", "peak memory", "loss")
ComparisonDocument = Mapping[str, Any]


def headings(document: ComparisonDocument) -> tuple[str, ...]:
    return (*HEADINGS, *(each["metric"] for each in document["best"]))


def cells(document: ComparisonDocument, titles: Mapping[str, str]) -> list[tuple[str, ...]]:
    """One row per model; the best value of each metric is marked."""
    return [
        (
            titles[row["model"]],
            _count(row["parameters"]),
            _rate(row["learning_rate"]),
            _count(row["tokens"]),
            _count(row["tokens_per_second"]),
            f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB" if row["peak_memory_bytes"] else "-",
            f"{row['loss']:.4f}" if row["loss"] is not None else "-",
            *_scores(row, document["best"]),
        )
        for row in document["rows"]
    ]


def _scores(row: Mapping[str, Any], best: Sequence[Mapping[str, Any]]) -> list[str]:
    if row["status"] != "ok":
        return ["failed"] * len(best)
    return [
        _value(score) + (MARK if each["model"] == row["model"] else "")
        for score, each in zip(row["scores"], best, strict=True)
    ]


def _value(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "not finite"
    ci = score["ci"]
    between = (
        f" ({rounded(ci['low'], score['scale'])} – {rounded(ci['high'], score['scale'])})"
        if ci and None not in (ci["low"], ci["high"])
        else ""
    )
    return rounded(score["value"], score["scale"]) + between


def remarks(document: ComparisonDocument, titles: Mapping[str, str]) -> list[str]:
    """Explain the marks, why some are missing, and which models failed."""
    marked = [each for each in document["best"] if each["model"]]
    found = []
    if marked:
        found.append(
            f"{MARK} better than every other model (approximate randomization with {RESAMPLES:,} resamples, "
            f"p < {LEVEL} after Holm's correction)"
        )
    unmarked: dict[str, list[str]] = {}
    for each in document["best"]:
        if each["why"]:
            unmarked.setdefault(_titled(each["why"], titles), []).append(each["metric"])
    found += [f"no best model by {' and '.join(names)}: {why}" for why, names in unmarked.items()]
    if len({row["family"] for row in document["rows"]}) > 1:
        found.append("loss: families compute it over different tokens; compare it only within a family")
    found += [
        f"{titles[row['model']]} failed: {row['error']['message']}"
        for row in document["rows"]
        if row["status"] == "failed"
    ]
    return found


def _titled(text: str, titles: Mapping[str, str]) -> str:
    for model, title in titles.items():
        text = text.replace(model, title) if model != title else text
    return text


def budget(document: ComparisonDocument) -> str:
    """Format the budget: `max_tokens 2,000,000`."""
    return ", ".join(f"{name} {value:,}" for name, value in document["budget"].items())


def markdown(document: ComparisonDocument, titles: Mapping[str, str]) -> str:
    """The page `compare.md`: table, marks, plots and how to reproduce it."""
    heads = headings(document)
    rule = ["---", *["---:"] * (len(heads) - 1)]
    table = [heads, rule, *([_escaped(cell) for cell in row] for row in cells(document, titles))]
    lines = [f"| {' | '.join(row)} |" for row in table]
    searched = [row for row in document["rows"] if row["search"]]
    tried = [
        f"* {escaped(titles[row['model']])}: "
        + ", ".join(f"{_rate(each['lr'])} → {_loss(each['validation_loss'])}" for each in row["search"])
        for row in searched
    ]
    search = ["", "Learning rates tried with a fraction of the budget, and their validation losses:", "", *tried]
    return "\n".join(
        [
            f"# {document['task']}: {len(document['rows'])} models",
            "",
            *lines,
            "",
            *(line for remark in remarks(document, titles) for line in (_escaped(remark), "")),
            f"Scored on the {document['split']} split; intervals in brackets. Each model was trained on the same "
            f"batches for the same budget: {budget(document)}. `loss` is the validation loss of the checkpoint scored.",
            *(search if searched else []),
            "",
            "![loss over tokens](plots/loss-tokens.png)",
            "",
            "![loss over seconds](plots/loss-seconds.png)",
            "",
            "Reproduce: `llmctl compare --config config.yaml --out ANOTHER`. All numbers: `compare.json`.",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return escaped(text).replace(MARK, rf"\{MARK}")


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"
