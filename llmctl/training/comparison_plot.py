"""The picture of several runs: validation loss of each, its training loss faint behind, over what they were given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.training import plots

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by the colour-blind too: Okabe and Ito 2008, Color Universal Design."""
DASHES: Final = ("-", "--", ":", "-.")
"""Once the colours are used up."""
SETTLED: Final = 0.1
"""The share of a run after which its losses decide what the picture shows: what is before is steep and says little."""
LEARNS_BELOW: Final = 0.95
"""A model has learned something once its loss is below so much of its first."""
Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""The lines of `metrics.jsonl` of each model."""


def loss_plots(curves: Curves, folder: Path, *, title: str) -> None:
    """Write `loss-tokens` and `loss-seconds`, `.svg` and `.png`. The same curves give the same bytes."""
    for over, unit in (("tokens", "tokens learned from"), ("seconds", "seconds of training")):
        with plots.drawing(9.6, 5.4, font_size=12) as figure:
            _draw(figure.subplots(), curves, over, unit)
            figure.suptitle(title, x=0.01, ha="left", fontsize=13)
            plots.save(figure, folder, f"loss-{over}")


def _draw(axes: Any, curves: Curves, over: str, unit: str) -> None:
    from matplotlib.ticker import EngFormatter

    lines: list[tuple[float, str, Any]] = []
    for number, (model, rows) in enumerate(curves.items()):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        }
        train_points, checked = points(rows, over, "loss"), points(rows, over, "validation_loss")
        axes.plot(*plots.columns(train_points), **style, linewidth=1, alpha=0.25)
        if not checked:
            continue
        place = min(range(len(checked)), key=lambda each: checked[each][1])
        [line] = axes.plot(*plots.columns(checked[: place + 1]), **style, linewidth=2.4, marker="o", markersize=4)
        axes.plot(*plots.columns(checked[place:]), **style, linewidth=1.4, alpha=0.55)
        axes.plot(*checked[place], **style, marker="o", markersize=9, markerfacecolor="white", markeredgewidth=2.4)
        lines.append((checked[place][1], model, line))
    axes.set_ylim(*bounds(curves, over))
    axes.set_xlim(left=0)
    axes.set_ylabel("loss, nats a token")
    axes.set_xlabel(f"{unit}  (bold: validation, until its best ○; faint: training)")
    if over == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plots.tidy(axes)
    _legend(axes, sorted(lines, key=lambda each: each[0]))


def _legend(axes: Any, lines: Sequence[tuple[float, str, Any]]) -> None:
    """Every model with its best validation loss, the least first, beside the picture."""
    if not lines:
        return
    axes.legend(
        [line for *_, line in lines],
        [f"{model}  {best:.3g}" for best, model, _ in lines],
        title="best validation loss",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        alignment="left",
    )


def points(rows: Sequence[Mapping[str, Any]], over: str, name: str) -> list[tuple[float, float]]:
    """(over, value) of the lines that have the value, where both are finite."""
    found = [(float(row[over]), float(row[name])) for row in rows if row.get(name) is not None and over in row]
    return [each for each in found if all(map(math.isfinite, each))]


def bounds(curves: Curves, over: str) -> tuple[float, float]:
    """Between which losses the picture shows the curves: each from where it has settled, but not above where it began.

    A model that learns nothing, at more than twice the loss that any that learns began with, is left out: it would
    squash the others.
    """
    found = [each for each in (_settled(rows, over) for rows in curves.values()) if each is not None]
    begun = [first for first, settled in found if min(settled) < LEARNS_BELOW * first]
    seen = [settled for _, settled in found if not begun or min(settled) <= 2 * max(begun)]
    low, high = min(map(min, seen), default=0.0), max(map(max, seen), default=1.0)
    room = 0.05 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _settled(rows: Sequence[Mapping[str, Any]], over: str) -> tuple[float, list[float]] | None:
    """The first loss of a run, and those after it has settled, none above the first; None where there are no losses."""
    train_points, checked = points(rows, over, "loss"), points(rows, over, "validation_loss")
    if not (train_points or checked):
        return None
    first = (train_points or checked)[0][1]
    last = max(x for x, _ in (*train_points, *checked))
    return first, [min(value, first) for x, value in (*train_points, *checked) if x >= SETTLED * last]
