"""The loss plot of a run, with the learning rate below and optionally a validation score on a second axis."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.store import atomic

TRAIN, VALIDATION, BEST, SCORE = "#9db4c8", "#c2453d", "#2b2b2b", "#3a7d6b"
_INK: Final = "#444444"
LAST_RESORT: Final = "Last Resort"
"""matplotlib's fallback font, which has an empty box for every character."""
LEGEND_HEIGHT: Final = 20
"""Space for a legend of one line between title and axes, in points."""


def loss_plot(
    rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str, best_step: int | None, score: str | None = None
) -> None:
    """Write `loss.svg` and `loss.png` from the rows of `metrics.jsonl`. The same rows give the same bytes.

    `score`: the metric that selects the best checkpoint, if it is not the loss; plotted on a second axis.
    """
    with drawing(7.2, 4.2, font_size=9, text=title) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        train_points = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        checked = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
        axes.plot(*columns(train_points), color=TRAIN, linewidth=1.2, label="training")
        if checked:
            axes.plot(
                *columns(checked), color=VALIDATION, linewidth=1.6, marker="o", markersize=3.5, label="validation"
            )
        if best := [point for point in checked if point[0] == best_step]:
            axes.scatter(
                *columns(best), s=70, facecolors="none", edgecolors=BEST, linewidths=1.4, zorder=5, label="best"
            )
        axes.set_ylabel("loss (nats per token)")
        axes.set_title(literal(title), loc="left", fontsize=10, pad=LEGEND_HEIGHT)
        lines = axes.get_legend_handles_labels()[0]
        if score is not None:
            lines += [_score(axes, rows, score)]
        below.plot(*columns([(row["step"], row["lr"]) for row in rows if "lr" in row]), color=_INK, linewidth=1)
        below.set_ylabel("lr")
        below.set_xlabel("optimizer step")
        for each in (axes, below):
            tidy(each)
        # Between title and axes, where it covers no curve of either axis.
        axes.legend(
            handles=lines,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(lines),
            frameon=False,
            borderpad=0,
            borderaxespad=0.4,
        )
        save(figure, folder, "loss")


def features_plot(features: Any, path: Path, *, title: str) -> None:
    """Draw log-mel features (bands, frames of 10 ms), or the samples (N,) at 16 kHz of a recording."""
    with drawing(7.2, 3.2, font_size=9) as figure:
        axes = figure.subplots()
        if features.ndim == 2:
            seconds = features.shape[1] / 100
            axes.imshow(features, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(features)))
            axes.set_ylabel("mel band")
        else:
            axes.plot([place / 16_000 for place in range(len(features))], features, color=VALIDATION, linewidth=0.5)
            axes.set_ylabel("amplitude")
        axes.set_xlabel("seconds")
        axes.set_title(title, loc="left", fontsize=10)
        kind = path.suffix.lower().removeprefix(".")
        with atomic.atomic_file(path) as file:
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})


@contextlib.contextmanager
def drawing(width: float, height: float, *, font_size: int, text: str = "", **settings: Any) -> Iterator[Any]:
    """Yield an empty figure of the given size in inches; draw and save it inside the block.

    `text`: what the user named and the figure shows; its characters are drawn in installed fonts that have them, else as
    boxes. Restores matplotlib's settings afterwards, so that figures in a notebook are not affected.
    """
    import_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    colours = {"axes.edgecolor": _INK, "text.color": _INK}
    family = {} if text.isascii() else {"font.family": fonts(text)[0]}
    settings = {"svg.hashsalt": "llmctl", "font.size": font_size, **colours, **family, **settings}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield Figure(figsize=(width, height), layout="constrained")


def import_matplotlib() -> None:
    """Import matplotlib whatever the environment says; writing files needs no backend and no settings folder.

    It refuses to be imported with a value of MPLBACKEND that it cannot use, and Jupyter sets the variable for every process
    it starts. It also warns that it cannot write below HOME or MPLCONFIGDIR, where it only keeps a list of fonts.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(
            ValueError
        ):  # as matplotlib does when it is imported, for a notebook that shows figures
            matplotlib.rcParams["backend"] = backend


def fonts(text: str) -> tuple[list[str], set[str]]:
    """Font names, and the characters that none of them has: matplotlib's default font, then, for characters it lacks,
    the first installed fonts by name, those for simplified Chinese before others."""
    import_matplotlib()
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    chosen = ["DejaVu Sans"]
    visible = {each for each in text if each.isprintable() or unicodedata.category(each) == "Co"}  # Co: private use
    missing = {each for each in visible if ord(each) not in known}
    if missing:
        _add_new_fonts(font_manager)
    ordered = sorted(
        font_manager.fontManager.ttflist, key=lambda each: (not each.name.endswith(" SC"), each.name, each.fname)
    )
    for font in ordered:
        if not missing:
            break
        if font.name.startswith(LAST_RESORT) or font.style != "normal":
            continue
        known = FT2Font(font.fname).get_charmap()
        has = {each for each in missing if ord(each) in known}
        if has:
            chosen.append(font.name)
            missing -= has
    return chosen, missing


def _add_new_fonts(font_manager: Any) -> None:
    """Add the fonts installed since matplotlib listed them; it keeps its list between runs."""
    known = {each.fname for each in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError):  # a damaged font, or a format that it cannot read
            font_manager.fontManager.addfont(path)


def literal(text: str) -> str:
    """Text in which dollar signs do not start a formula."""
    return text.replace("$", r"\$")


def tidy(axes: Any) -> None:
    """Draw a light grid behind the lines and hide the top and right spines."""
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def save(figure: Any, folder: Path, name: str) -> None:
    """Write `name.svg` and `name.png` atomically. The same figure gives the same bytes."""
    for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with atomic.atomic_file(folder / f"{name}.{ending}") as file:
            figure.savefig(file, format=ending, dpi=150, metadata=metadata)


def _score(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Plot a validation score on a second axis and return its line."""
    points = [(row["step"], value) for row in rows if (value := row.get(f"validation_{name}")) is not None]
    right = axes.twinx()
    [line] = right.plot(
        *columns(points),
        color=SCORE,
        linewidth=1.2,
        linestyle="--",
        marker="s",
        markersize=3,
        label=f"validation {name}",
    )
    right.set_ylabel(name, color=SCORE)
    right.spines[["top"]].set_visible(False)
    return line


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Split points into the x and y sequences that matplotlib expects."""
    return [x for x, _ in points], [y for _, y in points]
