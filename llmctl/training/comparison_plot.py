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
LEARNED: Final = 0.95
"""A model has learned something once its loss is below so much of its first."""
_LABELS_APART: Final = 0.055
"""Least distance of two labels, as a share of the picture's height."""

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""The lines of `metrics.jsonl` of each model."""


def loss_plots(curves: Curves, folder: Path, *, title: str) -> None:
    """Write `loss-tokens` and `loss-seconds`, `.svg` and `.png`. The same curves give the same bytes."""
    for over, unit in (("tokens", "tokens learned from"), ("seconds", "seconds of training")):
        figure = plots.blank(9.6, 5.4, font_size=12)
        _draw(figure.subplots(), curves, over, unit)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        plots.save(figure, folder, f"loss-{over}")


def _draw(axes: Any, curves: Curves, over: str, unit: str) -> None:
    from matplotlib.ticker import EngFormatter

    ends: list[tuple[str, float, float, str]] = []
    for number, (model, rows) in enumerate(curves.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        learned, checked = points(rows, over, "loss"), points(rows, over, "validation_loss")
        axes.plot(*plots.columns(learned), color=colour, linestyle=dash, linewidth=1, alpha=0.3)
        axes.plot(*plots.columns(checked), color=colour, linestyle=dash, linewidth=2.2, marker="o", markersize=4)
        if last := (checked or learned)[-1:]:
            ends.append((model, *last[0], colour))
    low, high = bounds(curves, over)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    axes.set_ylabel("loss, nats a token")
    axes.set_xlabel(f"{unit}  (bold: validation, faint: training)")
    if over == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plots.tidy(axes)
    _label(axes, ends, low, high)


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
    begun = [first for first, settled in found if min(settled) < LEARNED * first]
    seen = [settled for _, settled in found if not begun or min(settled) <= 2 * max(begun)]
    low, high = min(map(min, seen), default=0.0), max(map(max, seen), default=1.0)
    room = 0.05 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _settled(rows: Sequence[Mapping[str, Any]], over: str) -> tuple[float, list[float]] | None:
    """The first loss of a run, and those after it has settled, none above the first; None where there are no losses."""
    learned, checked = points(rows, over, "loss"), points(rows, over, "validation_loss")
    if not (learned or checked):
        return None
    first = (learned or checked)[0][1]
    last = max(x for x, _ in (*learned, *checked))
    return first, [min(value, first) for x, value in (*learned, *checked) if x >= SETTLED * last]


def _label(axes: Any, ends: Sequence[tuple[str, float, float, str]], low: float, high: float) -> None:
    """Each line's model at its end, beyond the right edge, labels that would touch moved apart."""
    heights = spread([(value - low) / (high - low) for _, _, value, _ in ends], _LABELS_APART)
    for (model, x, value, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            model,
            xy=(x, min(value, high)),
            xytext=(1.015, height),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linestyle": ":",
                "linewidth": 1,
                "shrinkA": 0,
                "shrinkB": 3,
            },
        )


def spread(heights: Sequence[float], apart: float) -> list[float]:
    """The heights, in 0 to 1, in the same order and at least `apart`: moved up, those that have no room above down;
    all over the picture where there is no room at all."""
    apart = min(apart, 1.0 / max(1, len(heights) - 1))
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    placed = [0.0] * len(heights)
    floor = 0.0
    for number in order:
        placed[number] = floor = max(floor, min(1.0, heights[number]))
        floor += apart
    ceiling = 1.0
    for number in reversed(order):
        placed[number] = ceiling = min(ceiling, placed[number])
        ceiling -= apart
    return placed
