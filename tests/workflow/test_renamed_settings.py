"""A setting that got a new name: recipes, runs and models written with the old one still work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmctl.cli import main

Inside = Callable[..., dict[str, Any]]
NOTE = "`corruption` is now `noise_density`"
SMALL = ("--set=model.layers=1", "--set=model.hidden=16", "--set=model.heads=2", "--set=model.inner=32")


def train(data: Path, out: Path, *words: str) -> list[str]:
    return ["train", "--data", str(data), "--model", "bert", "--out", str(out), "--max-steps", "2", *SMALL, *words]


def rename(path: Path, old: str = "noise_density", new: str = "corruption") -> None:
    """Write the file as the version before the renaming did."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("key", ["corruption", "noise_density"])
def test_both_names_set_the_noise_density_and_the_old_one_is_noted_once(
    sonnets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], key: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"train": {key: 0.4}}))
    given = {"recipe": ("--config", str(recipe)), "--set": (f"--set={key}=0.4",)}
    for where, words in given.items():
        assert main.run([*train(sonnets, tmp_path / "run", *words), "--dry-run", "--json"]) == 0
        out, err = capfd.readouterr()
        settings = json.loads(out)["train"]
        assert settings["noise_density"] == 0.4, where
        assert "corruption" not in settings
        assert err.splitlines().count(NOTE) == (key == "corruption"), where


def test_a_model_that_is_only_forecast_takes_the_old_name_too(sonnets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["show", "models", "bert", "--data", str(sonnets), "--set", "corruption=0.4", "--json"]) == 0
    assert capfd.readouterr().err.splitlines() == [NOTE]


def test_the_note_is_an_event_and_quiet_leaves_it_out(
    sonnets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = train(sonnets, tmp_path / "run", "--set=corruption=0.4", "--dry-run", "--quiet")
    assert main.run([*words, "--events", str(tmp_path / "events.jsonl")]) == 0
    assert NOTE not in capfd.readouterr().err
    assert {"event": "note", "text": NOTE} in map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ("--config=both.yaml",),
        ("--set=corruption=0.4", "--set=noise_density=0.4"),
        ("--config=old.yaml", "--set=noise_density=0.3"),
    ],
)
def test_both_names_together_are_an_error(
    inside: Inside, sonnets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both.yaml").write_text("train: {corruption: 0.4, noise_density: 0.4}\n")
    Path("old.yaml").write_text("train: {corruption: 0.4}\n")
    error = inside(*train(sonnets, tmp_path / "run", *words), code=2)["error"]
    fault = "corruption: is the old name of 'noise_density', which is given too; keep 'noise_density' alone"
    assert error["message"] == fault
    recipe = {"train": {"data": str(sonnets), "model": "bert", "out": "run", "corruption": 0.4}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    error = inside("run", "recipe.yaml", "--set", "train.noise_density=0.4", code=2)["error"]
    assert error["message"] == f"train.{fault}"


def test_an_old_value_out_of_range_is_reported_under_the_new_name(
    inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    error = inside(*train(sonnets, tmp_path / "run", "--set=corruption=1"), code=2)["error"]
    assert error["message"] == "noise_density: must be less than 1.0, not 1"


def test_a_flag_that_does_not_exist_leads_to_the_new_name(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    error = inside(*train(sonnets, tmp_path / "run", "--corruption=0.4"), code=2)["error"]
    assert error["hint"] == "--set noise_density=0.4"


def test_a_comparison_rejects_it_under_both_names(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    for key in ("corruption", "noise_density"):
        words = ("--data", sonnets, "--models", "bert", "--out", tmp_path / "compare", f"--set=train.{key}=0.4")
        error = inside("compare", *words, code=2)["error"]
        assert "not allowed here: noise_density" in error["message"]


def test_a_run_and_a_model_of_the_version_before_resume_and_open(
    inside: Inside, sonnets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    inside(*train(sonnets, run, "--set=noise_density=0.4"))
    assert json.loads((run / "model/llmctl.json").read_text())["noise_density"] == 0.4
    inside("train", "--resume", run, "--max-steps", 3)
    rename(run / "config.yaml")
    rename(run / "model/llmctl.json")

    shown = inside("runs", "show", run)
    assert shown["config"]["train"]["noise_density"] == 0.4

    further = inside("train", "--data", sonnets, "--model", run, "--out", tmp_path / "further", "--max-steps", 1)
    card = json.loads((tmp_path / "further/model/llmctl.json").read_text())
    assert further["steps"] == 1
    assert (card["noise_density"], "corruption" in card) == (0.4, False), "fine-tuning keeps the parent's share"

    error = inside("train", "--resume", run, "--set=noise_density=0.3", code=2)["error"]
    assert error["message"].startswith("noise_density: ")
    assert "0.4, not 0.3" in error["message"]
    capfd.readouterr()
    for steps, words, notes in ((4, (), 0), (5, ("--set=noise_density=0.4",), 0), (6, ("--set=corruption=0.4",), 1)):
        if steps > 4:
            rename(run / "config.yaml")
        assert main.run(["train", "--resume", str(run), "--max-steps", str(steps), *words]) == 0
        assert capfd.readouterr().err.splitlines().count(NOTE) == notes, "only what the user writes is noted"
        settings = yaml.safe_load((run / "config.yaml").read_text())["train"]
        assert (settings["noise_density"], "corruption" in settings) == (0.4, False)
    assert json.loads((run / "model/llmctl.json").read_text())["noise_density"] == 0.4


def test_a_stage_recorded_under_the_old_name_is_unchanged(
    inside: Inside, sonnets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"data": str(sonnets), "model": {"name": "bert", "layers": 1, "hidden": 16, "heads": 2}, "max_steps": 1}
    recipe = {"train": [{**settings, "out": out, "noise_density": 0.4} for out in ("one", "other")]}
    Path("new.yaml").write_text(yaml.safe_dump(recipe))
    Path("old.yaml").write_text(yaml.safe_dump(recipe).replace("noise_density", "corruption"))
    inside("run", "new.yaml")
    rename(Path("one/stage.json"))

    def statuses(*words: str) -> list[str]:
        return [each["status"] for each in inside("run", *words, "--dry-run")["stages"]]

    assert statuses("new.yaml") == ["skipped", "skipped"]
    assert statuses("old.yaml") == ["skipped", "skipped"]
    assert statuses("old.yaml", "--set", "train.0.corruption=0.3") == ["runs", "skipped"]
    capfd.readouterr()
    assert main.run(["run", "old.yaml"]) == 0
    assert capfd.readouterr().err.splitlines().count(NOTE) == 1, "once, however many stages have it"


def test_runs_of_both_versions_compare_by_one_name(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    for name, density in (("one", 0.4), ("other", 0.4), ("third", 0.3)):
        inside(*train(sonnets, tmp_path / name, f"--set=noise_density={density}"))
    rename(tmp_path / "one/config.yaml")
    differing = inside("runs", "compare", *(tmp_path / name for name in ("one", "other", "third")))["config"]
    assert differing["train.noise_density"] == [0.4, 0.4, 0.3]
    assert "train.corruption" not in differing
