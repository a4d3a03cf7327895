"""Models compared as a user compares them: rows, files, the best marked, what fails, what is stopped and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Inside = Callable[..., dict[str, Any]]
SMALL = ("--precision", "fp32", "--set", "train.model.hidden=16")
RECURRENT = (*SMALL, "--set", "train.model.embedding=8")


def compare(data: Path, models: str, out: Path, *more: str) -> list[str]:
    return ["compare", "--data", str(data), "--models", models, "--out", str(out), *more]


def saved(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    return found


def test_a_search_of_a_few_steps_does_not_choose_the_largest_rate(
    inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    document = inside(*compare(sonnets, "rnn", tmp_path / "out", *RECURRENT, "--max-steps", "12"))
    [row] = document["rows"]
    assert len(row["search"]) == 1
    assert row["learning_rate"] == pytest.approx(3 * row["search"][0]["lr"], rel=0.02)


def test_language_models_with_a_search_and_one_that_fails(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (*RECURRENT, "--max-steps", "20", "--set", "lrs.lstm=1e12", "--set", "search.share=0.5")
    document = inside(*compare(sonnets, "rnn,lstm", out, *words), code=10)
    assert (document["schema"], document["status"]) == ("llmctl.compare/1", "error")
    assert "lstm" in document["error"]["message"]
    assert document["budget"] == {"max_steps": 20}
    row, failed = document["rows"]

    assert (row["model"], row["status"], row["steps"]) == ("rnn", "ok", 20)
    assert [score["metric"] for score in row["scores"]] == ["perplexity", "bits_per_byte"]
    assert all(score["ci"]["low"] < score["value"] < score["ci"]["high"] for score in row["scores"])
    tried = {each["lr"]: each["validation_loss"] for each in row["search"]}
    assert len(tried) == 3
    assert row["learning_rate"] == min(tried, key=lambda rate: tried[rate])
    run = Path(row["run"])
    assert run == out / "runs" / "rnn"
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["optimizer"]["lr"] == row["learning_rate"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] == min(line["validation_loss"] for line in lines if "validation_loss" in line)
    assert row["peak_memory_bytes"] > 2**26
    assert not (out / "search").exists()

    assert (failed["model"], failed["status"], failed["learning_rate"]) == ("lstm", "failed", 1e12)
    assert failed["error"]["kind"] == "diverged"
    assert failed["scores"] == []
    assert [each["model"] for each in document["best"]] == [None, None]
    shown = {name: value for name, value in document.items() if name not in ("status", "error")}
    written = saved(out)
    assert written.pop("settings")["lrs"] == {"lstm": 1e12}
    assert written == shown | {"finished": True}
    assert sorted(each.name for each in (out / "plots").iterdir()) == [
        "loss-seconds.png",
        "loss-seconds.svg",
        "loss-tokens.png",
        "loss-tokens.svg",
    ]
    page = (out / "compare.md").read_text(encoding="utf-8")
    assert "| rnn |" in page
    assert "lstm failed" in page

    # What is done is not done again, what failed is tried again.
    at = (run / "run.json").stat().st_mtime_ns
    begun = (out / "runs" / "lstm" / "run.json").stat().st_mtime_ns
    again = inside("compare", "--resume", out, code=10)
    assert again["rows"][0] == row
    assert (run / "run.json").stat().st_mtime_ns == at
    assert (out / "runs" / "lstm" / "run.json").stat().st_mtime_ns > begun


def test_classifiers_of_two_families_and_the_best_is_marked(inside: Inside, reviews: Path, tmp_path: Path) -> None:
    words = ("--max-steps", "40", "--set", "lrs={lstm-classifier: 0.02, bert: 1e-9}", "--metric", "accuracy")
    small = (*SMALL, "--set", "train.eval_every=40")
    bert = ("--set", "train.log_every=5")
    document = inside(*compare(reviews, "bert,lstm-classifier", tmp_path / "out", *words, *small, *bert))
    assert [row["status"] for row in document["rows"]] == ["ok", "ok"]
    assert [row["perplexity"] for row in document["rows"]] == [None, None]
    (best,) = document["best"]
    assert best["model"] == "lstm-classifier"
    assert best["value"] == document["rows"][1]["scores"][0]["value"]
    assert 0 < best["p"]["bert"] < 0.05
    assert "\\*" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_it_goes_on_to_what_it_would_have_been(
    number: signal.Signals, inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("--lr", "3e-3", "--max-steps", "300", "--set", "train.save_every=3", "--set", "train.eval_every=300")
    command = [sys.executable, "-m", "llmctl", *compare(sonnets, "rnn", out, *RECURRENT, *words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/rnn/checkpoints/step-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, talk = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 75, talk
        assert f"llmctl compare --resume {out}" in talk
    assert saved(out)["finished"] is False
    document = inside("compare", "--resume", out)
    assert (document["rows"][0]["status"], document["rows"][0]["steps"]) == ("ok", 300)
    assert saved(out)["finished"] is True
    record = json.loads((out / "runs/rnn/run.json").read_text())
    assert record["result"]["resumed_from"] is not None
