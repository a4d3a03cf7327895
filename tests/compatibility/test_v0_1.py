"""Files that version 0.1 wrote: prepared data, runs, models and recipes are still read, and mean the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Inside = Callable[..., dict[str, Any]]

FILES = Path(__file__).parent / "v0_1"
PLACE = "/tmp/llmctl-0.1"
"""The folder in which 0.1 made the files, as they name it."""
DATA = {"decoder": "plain", "encoder-decoder": "pairs", "encoder": "plain", "classifier": "labels"}
SMALL = {
    "plain": ("gpt2", "model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "pairs": ("lstm-seq2seq", "model.hidden=16", "model.embedding=16"),
    "labels": ("lstm-classifier", "model.hidden=16", "model.embedding=16"),
}
RECORDS = {"plain": 32, "pairs": 48, "labels": 48}
ANSWERING = ("decoder", "encoder-decoder", "classifier")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the files; what names the folder that 0.1 made them in names the copy."""
    place = tmp_path / "old"
    shutil.copytree(FILES, place)
    for path in (*place.glob("*/*/config.yaml"), *place.glob("*/*/run.json")):
        path.write_text(path.read_text(encoding="utf-8").replace(PLACE, str(place)), encoding="utf-8")
    return place


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> dict[int, float]:
    """The training loss of each step."""
    return {row["step"]: row["loss"] for row in rows(run / "metrics.jsonl") if "loss" in row}


def validation(run: Path) -> dict[int, float]:
    return {row["step"]: row["validation_loss"] for row in rows(run / "metrics.jsonl") if "validation_loss" in row}


@pytest.mark.parametrize("name", list(SMALL))
def test_prepared_data_is_shown_and_trained_on(name: str, inside: Inside, llmctl: Any, tmp_path: Path) -> None:
    data = FILES / "data" / name
    done = llmctl("show", "data", data)
    assert done.returncode == 0, done.stderr
    model, *shape = SMALL[name]
    words = [f"--set={each}" for each in (*shape, "batch_size=8", "precision=fp32")]
    document = inside("train", "--data", data, "--model", model, "--max-steps", "1", "--out", tmp_path / "run", *words)
    assert document["steps"] == 1


@pytest.mark.parametrize("name", list(SMALL))
def test_data_prepared_again_is_the_same(name: str, inside: Inside, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same records, splits, tokenizer and ids, by the rule of 0.1: its splits followed from whole records."""
    monkeypatch.chdir(old)
    words = {
        "plain": ("inputs/plain.txt", "--task", "lm", "--document", "paragraph", "--set", "block_size=32"),
        "pairs": ("inputs/pairs.jsonl", "--task", "translation"),
        "labels": ("inputs/labels.jsonl", "--task", "classification", "--tokenizer", "word"),
    }[name]
    words = (*words, "--set", "splits.hash=record")
    inside("preprocess", *words, "--vocab-size", "300", "--workers", "1", "--out", "again")
    before = json.loads((FILES / "data" / name / "manifest.json").read_text(encoding="utf-8"))
    after = json.loads((old / "again/manifest.json").read_text(encoding="utf-8"))
    assert before["records"]["kept"] == RECORDS[name]
    for key in ("task", "records", "splits", "tokens", "tokenizer", "labels", "block_size"):
        assert after[key] == before[key], key
    for path in sorted((FILES / "data" / name / "tokens").iterdir()):
        assert (old / "again/tokens" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", list(DATA))
def test_a_stopped_run_resumes_and_ends_as_it_would_have(name: str, inside: Inside, old: Path) -> None:
    run, whole = old / "stopped" / name, old / "finished" / name
    reached = max(losses(run))
    assert reached < max(losses(whole))
    document = inside("train", "--resume", run)
    assert document["steps"] == max(losses(whole))
    assert document["resumed_from"].endswith(f"step-{reached:08d}")
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)
    assert validation(run) == pytest.approx(validation(whole), rel=1e-3)
    inside("runs", "show", run)
    assert (run / "model/model.safetensors").is_file()


@pytest.mark.parametrize("name", ANSWERING)
def test_a_model_gives_the_same_answers(name: str, inside: Inside, tmp_path: Path) -> None:
    run, answers = FILES / "finished" / name, tmp_path / "answers.jsonl"
    expected = rows(run / "generated.jsonl")
    assert len(expected) == 3
    prompts = [word for row in expected for word in ("--prompt", row["prompt"])]
    more = () if name == "classifier" else ("--temperature", "0", "--max-new-tokens", "16")
    inside("generate", "--model", run, *prompts, *more, "--output", answers)
    assert rows(answers) == expected


@pytest.mark.parametrize("name", ANSWERING)
def test_a_model_scores_the_same(name: str, inside: Inside, tmp_path: Path) -> None:
    run, out = FILES / "finished" / name, tmp_path / "scored"
    inside("eval", "--model", run, "--data", FILES / "data" / DATA[name], "--split", "train", "--out", out)
    before, after = (json.loads((each / "scores.json").read_text())["scores"] for each in (run / "scored", out))
    assert [each["metric"] for each in after] == [each["metric"] for each in before]
    for then, now in zip(before, after, strict=True):
        assert now["signature"] == then["signature"]
        assert now["n"] == then["n"]
        assert now["value"] == pytest.approx(then["value"], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", list(DATA))
def test_runs_are_shown_and_listed(name: str, inside: Inside) -> None:
    shown = inside("runs", "show", FILES / "stopped" / name)
    assert "stopped" in json.dumps(shown)
    listed = json.dumps(inside("runs", "list", FILES))
    assert f"finished/{name}" in listed


def test_a_config_of_a_run_repeats_it(inside: Inside, old: Path) -> None:
    """The encoder's config holds `corruption`."""
    assert "corruption: 0.2" in (old / "finished/encoder/config.yaml").read_text()
    inside("train", "--config", old / "finished/encoder/config.yaml", "--out", old / "again")
    assert losses(old / "again") == pytest.approx(losses(old / "finished/encoder"), rel=1e-3)


def test_a_pretrained_encoder_keeps_its_share_and_is_fine_tuned(inside: Inside, old: Path) -> None:
    """Its `llmctl.json` holds `corruption`."""
    encoder = old / "finished/encoder"
    assert json.loads((encoder / "model/llmctl.json").read_text())["corruption"] == 0.2
    words = ("--max-steps", "2", "--batch-size", "8", "--precision", "fp32", "--set=log_every=1")
    further = ("train", "--model", encoder, "--data", old / "data/plain", *words)
    inside(*further, "--out", old / "unsaid")
    inside(*further, "--set=corruption=0.2", "--out", old / "said")
    inside(*further, "--set=corruption=0.5", "--out", old / "other")
    assert losses(old / "unsaid") == losses(old / "said") != losses(old / "other")
    inside("train", "--model", encoder, "--data", old / "data/labels", *words, "--out", old / "labels")


def test_a_recipe_with_the_setting_corruption_runs(inside: Inside, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    inside("run", "recipe.yaml")
    assert json.loads((old / "runs/recipe/run.json").read_text())["result"]["steps"] == 2
    assert "0.25" in (old / "runs/recipe/config.yaml").read_text()
