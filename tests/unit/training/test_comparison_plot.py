"""The loss plot of several runs: what it shows, what it leaves out, and that it is reproducible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmctl.training.comparison_plot import bounds, loss_plots, points


def run(end: float, *, start: float = 8.0, steps: int = 20) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`: a loss that falls quickly at first, evaluated every five steps."""
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        position = {"step": step, "tokens": 1000 * step, "seconds": 0.5 * step}
        loss = end + (start - end) * 0.5**step
        rows.append(position | {"loss": loss, "lr": 1e-3})
        if step % 5 == 0:
            rows.append(position | {"validation_loss": loss + 0.1})
    return rows


def test_points_are_the_finite_values_of_one_column() -> None:
    rows = [*run(2.0, steps=5), {"step": 6, "tokens": 6000, "seconds": 3.0, "loss": float("inf")}]
    assert points(rows, "tokens", "validation_loss") == [(5000.0, pytest.approx(2.0 + 6.0 * 0.5**5 + 0.1))]
    assert len(points(rows, "seconds", "loss")) == 5


def test_a_steep_start_does_not_squash_the_curves() -> None:
    low, high = bounds({"one": run(2.0), "other": run(3.0)}, "tokens")
    assert low < 2.0
    assert 3.1 < high < 5.0


def test_a_model_that_learns_nothing_does_not_squash_the_curves() -> None:
    wild = [row | {"loss": 90.0 - row["step"] % 3} for row in run(2.0) if "loss" in row]
    _, high = bounds({"one": run(2.0), "wild": wild}, "tokens")
    assert high < 6.0
    _, high = bounds({"one": run(2.0), "slow": run(7.8)}, "tokens")
    assert high > 7.8


def test_a_model_with_losses_on_another_scale_is_visible() -> None:
    """A classifier's loss is per label, that of a decoder per token."""
    low, high = bounds({"classifier": run(0.5, start=0.7), "decoder": run(2.0)}, "tokens")
    assert low < 0.5
    assert high > 2.1


def test_a_run_without_losses_still_gives_a_plot(tmp_path: Path) -> None:
    loss_plots({"failed": []}, tmp_path, title="nothing")
    low, high = bounds({"failed": []}, "tokens")
    assert low < high


def test_plots_are_complete_name_every_model_and_are_reproducible(tmp_path: Path) -> None:
    curves = {"gpt2:nano": run(2.0), "lstm": run(3.0)}
    for folder in ("one", "two"):
        loss_plots(curves, tmp_path / folder, title="language-modeling on sonnets")
    names = ["loss-seconds.png", "loss-seconds.svg", "loss-tokens.png", "loss-tokens.svg"]
    assert sorted(each.name for each in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one" / "loss-tokens.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    legend = re.findall(r"<!-- ((?:gpt2:nano|lstm)  [\d.]+) -->", svg)
    best = {
        name: min(row["validation_loss"] for row in rows if "validation_loss" in row) for name, rows in curves.items()
    }
    assert legend == [f"{name}  {best[name]:.3g}" for name in sorted(best, key=lambda each: best[each])]
