"""The loss plot of one run: what it names, that its legend covers no curve, and that it is reproducible."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from llmctl.training.plots import loss_plot

ROWS: list[dict[str, Any]] = [
    {"step": step, "loss": 8.0 - step / 2, "lr": 1e-3, "validation_loss": 8.1 - step / 2, "validation_bleu": 9.0 * step}
    for step in range(1, 9)
]


@pytest.mark.parametrize(("score", "extra"), [(None, []), ("bleu", ["validation bleu"])])
def test_the_legend_names_every_curve_and_is_above_the_axes(
    tmp_path: Path, score: str | None, extra: list[str]
) -> None:
    loss_plot(ROWS, tmp_path, title="lstm on sonnets", best_step=8, score=score)
    svg = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    legend = svg[svg.index('<g id="legend_1">') :]
    assert re.findall(r"<!-- (.+?) -->", legend)[: 3 + len(extra)] == ["training", "validation", "best", *extra]
    axes = re.search(r'<g id="axes_1">\s*<g id="patch_2">\s*<path d="M \S+ (\S+)\s+L \S+ \S+\s+L \S+ (\S+)', svg)
    assert axes is not None
    top = min(map(float, axes.groups()))
    texts = re.findall(
        r"<!-- (?:training|validation|best|validation bleu) -->\s*<g [^>]*translate\(\S+ (\S+)\)", legend
    )
    assert len(texts) == 3 + len(extra)
    assert all(float(baseline) < top for baseline in texts)
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_a_name_in_any_script_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_plot(ROWS, tmp_path, title="lstm:nano on 唐诗$三$百首 \U000f0000", best_step=8)
    assert "唐诗$三$百首" in (tmp_path / "loss.svg").read_text(encoding="utf-8").replace("\\$", "$")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        loss_plot(ROWS, tmp_path / folder, title="lstm", best_step=8, score="bleu")
    for name in ("loss.svg", "loss.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
