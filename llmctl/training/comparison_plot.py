"""Loss curves of several runs: validation loss, with the training loss faint behind it, over tokens and seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.training import plots

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""A colour-blind safe palette: Okabe and Ito 2008, Color Universal Design."""
DASHES: Final = ("-", "--", ":", "-.")
"""Line styles, used once all colours are taken."""
SETTLED: Final = 0.1
"""The fraction of a run after which its losses determine the y limits; the steep start before it says little."""
LEARNS_BELOW: Final = 0.95
"""A model has learned something once its loss is below this fraction of its first loss."""
Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of `metrics.jsonl` by model."""


def loss_plots(curves: Curves, folder: Path, *, title: str) -> None:
    """Write `loss-tokens` and `loss-seconds`, `.svg` and `.png`. The same curves give the same bytes."""
    for over, unit in (("tokens", "training tokens"), ("seconds", "training time, seconds")):
        with plots.drawing(9.6, 5.4, font_size=12, text="".join((title, *curves))) as figure:
            _draw(figure.subplots(), curves, over, unit)
            figure.suptitle(plots.literal(title), x=0.01, ha="left", fontsize=13)
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
        best = min(range(len(checked)), key=lambda index: checked[index][1])
        [line] = axes.plot(*plots.columns(checked[: best + 1]), **style, linewidth=2.4, marker="o", markersize=4)
        axes.plot(*plots.columns(checked[best:]), **style, linewidth=1.4, alpha=0.55)
        axes.plot(*checked[best], **style, marker="o", markersize=9, markerfacecolor="white", markeredgewidth=2.4)
        lines.append((checked[best][1], model, line))
    axes.set_ylim(*bounds(curves, over))
    axes.set_xlim(left=0)
    axes.set_ylabel("loss (nats per token)")
    axes.set_xlabel(f"{unit}  (bold: validation up to its best, ○; faint: training)")
    if over == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plots.tidy(axes)
    _legend(axes, sorted(lines, key=lambda each: each[0]))


def _legend(axes: Any, lines: Sequence[tuple[float, str, Any]]) -> None:
    """List the models by their best validation loss, lowest first, to the right of the axes."""
    if not lines:
        return
    axes.legend(
        [line for *_, line in lines],
        [f"{plots.literal(model)}  {best:.3g}" for best, model, _ in lines],
        title="best validation loss",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        alignment="left",
    )


def points(rows: Sequence[Mapping[str, Any]], over: str, name: str) -> list[tuple[float, float]]:
    """(over, value) for every row that has both, if both are finite."""
    found = [(float(row[over]), float(row[name])) for row in rows if row.get(name) is not None and over in row]
    return [each for each in found if all(map(math.isfinite, each))]


def bounds(curves: Curves, over: str) -> tuple[float, float]:
    """The y limits: they cover every curve after it has settled, but nothing above its first loss.

    A model that learns nothing, at more than twice the first loss of every model that learns, does not count: it would
    squash the other curves.
    """
    found = [each for each in (_settled(rows, over) for rows in curves.values()) if each is not None]
    first_losses = [first for first, settled in found if min(settled) < LEARNS_BELOW * first]
    shown = [settled for _, settled in found if not first_losses or min(settled) <= 2 * max(first_losses)]
    low, high = min(map(min, shown), default=0.0), max(map(max, shown), default=1.0)
    margin = 0.05 * (high - low or abs(high) or 1.0)
    return low - margin, high + margin


def _settled(rows: Sequence[Mapping[str, Any]], over: str) -> tuple[float, list[float]] | None:
    """The first loss of a run, and its losses after it has settled, capped at the first; None without losses."""
    train_points, checked = points(rows, over, "loss"), points(rows, over, "validation_loss")
    if not (train_points or checked):
        return None
    first = (train_points or checked)[0][1]
    last = max(x for x, _ in (*train_points, *checked))
    return first, [min(value, first) for x, value in (*train_points, *checked) if x >= SETTLED * last]
