"""Preference tuning as its users see it: pairs in, a model that prefers the better answers out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Inside = Callable[..., dict[str, Any]]
Run = Callable[..., Any]

SHAPE = ("model.layers=1", "model.hidden=32", "model.heads=2")
COLOURS = ("红", "蓝", "绿", "黄", "白", "黑")
THINGS = ("天空", "草地", "雪", "煤", "花", "海", "树叶", "太阳")


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, in which the shorter answer is preferred; a chat model and a translator that know both kinds of answers."""
    folder = tmp_path_factory.mktemp("preference")
    asked = [(f"{thing}是什么颜色？{number}", colour) for thing in THINGS for number, colour in enumerate(COLOURS)]
    pairs = [
        {"prompt": text, "chosen": f"{colour}色。", "rejected": f"这个我不清楚，{colour}？"} for text, colour in asked
    ]
    chats = [
        {"messages": [{"role": "user", "content": each["prompt"]}, {"role": "assistant", "content": each[answer]}]}
        for each in pairs
        for answer in ("chosen", "rejected")
    ]
    for name, rows in (("pairs", pairs), ("chats", chats)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    options = ("--tokenizer", "char", "--set", "splits.validation=0.2", "--set", "splits.test=0.2")
    inside("preprocess", folder / "chats.jsonl", "--task", "chat", *options, "--out", folder / "chats")
    inside("preprocess", folder / "pairs.jsonl", "--task", "preference", *options, "--out", folder / "data")
    sets = [f"--set={each}" for each in (*SHAPE, "precision=fp32", "optimizer.lr=0.003")]
    model = ("--model", "llama", "--max-steps", "10", "--batch-size", "16")
    inside("train", "--data", folder / "chats", *model, *sets, "--out", folder / "chat")
    return folder


@pytest.fixture
def tune(inside: Inside, made: Path) -> Callable[..., dict[str, Any]]:
    def run(out: Path, *words: str | Path) -> dict[str, Any]:
        base = ("--data", made / "data", "--model", made / "chat", "--objective", "dpo", "--precision", "fp32")
        return inside("train", *base, "--batch-size", "8", "--lr", "0.001", "--out", out, *words)

    return run


@pytest.mark.parametrize("more", [(), ("--adapter", "lora"), ("--set", "dpo.loss=ipo"), ("--set", "dpo.loss=hinge")])
def test_pairs_raise_the_reward_margin_and_eval_agrees_with_training(
    more: tuple[str, ...], tune: Callable[..., dict[str, Any]], inside: Inside, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    document = tune(out, "--max-steps", "12", "--set", "log_every=1", *more)
    rows = rows_of(out)
    first = next(row for row in rows if "loss" in row)
    assert (first["reward_margin"], first["reward_accuracy"]) == (
        pytest.approx(0.0, abs=1e-5),
        pytest.approx(0.5, abs=0.5),
    )
    assert document["validation"]["reward_margin"] > 0.01
    assert document["validation"]["reward_accuracy"] >= 0.9
    scored = inside("eval", "--model", out, "--data", made / "data", "--split", "validation")["scores"]
    found = {score["metric"]: score["value"] for score in scored}
    best = next(row for row in rows if row["step"] == document["best"]["step"] and "validation_loss" in row)
    for name in ("reward_margin", "reward_accuracy"):
        assert found[name] == pytest.approx(best[f"validation_{name}"], abs=1e-4)


def test_the_tuned_model_is_a_chat_model_and_prefers_the_short_answer(
    tune: Callable[..., dict[str, Any]], inside: Inside, tmp_path: Path
) -> None:
    tune(tmp_path / "run", "--max-steps", "60", "--batch-size", "16")
    card = json.loads((tmp_path / "run" / "model" / "llmctl.json").read_text(encoding="utf-8"))
    assert card["task"] == "chat"
    readme = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "chat (version 1), tuned on preference pairs (loss sigmoid, beta 0.1)" in readme
    answer = inside("generate", "--model", tmp_path / "run", "--prompt", "雪是什么颜色？9", "--max-new-tokens", "12")
    assert not answer["completions"][0]["text"].startswith("这")


def test_resuming_preference_tuning_is_exact(
    tune: Callable[..., dict[str, Any]], inside: Inside, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tune(whole, "--max-steps", "8", "--set", "save_every=4")
    tune(parts, "--max-steps", "8", "--set", "save_every=4")
    shutil.rmtree(parts / "checkpoints" / "step-00000008")
    shutil.rmtree(parts / "model")
    inside("train", "--resume", parts)
    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    shown = [{key: value for key, value in row.items() if "second" not in key} for row in rows_of(parts)]
    assert shown == [{key: value for key, value in row.items() if "second" not in key} for row in rows_of(whole)]


def test_a_translator_is_tuned_on_pairs_and_stays_a_translator(
    inside: Inside, dates: Path, made: Path, tmp_path: Path
) -> None:
    sets = [f"--set={each}" for each in ("model.layers=1", "model.hidden=16", "model.heads=2", "precision=fp32")]
    inside("train", "--data", dates, "--model", "t5", "--max-steps", "2", *sets, "--out", tmp_path / "base")
    words = ("--data", made / "data", "--model", tmp_path / "base", "--max-steps", "3", "--batch-size", "8")
    document = inside("train", *words, "--lr", "0.01", "--set=precision=fp32", "--out", tmp_path / "run")
    assert document["validation"]["reward_margin"] > 0
    card = json.loads((tmp_path / "run" / "model" / "llmctl.json").read_text(encoding="utf-8"))
    assert (card["task"], card["family"]) == ("translation", "encoder-decoder")
    scored = inside("eval", "--model", tmp_path / "run", "--data", made / "data", "--metric", "reward_accuracy")
    assert scored["scores"][0]["n"] > 0


def test_what_cannot_be_tuned_is_refused_with_the_way_out(llmctl: Run, made: Path, tmp_path: Path) -> None:
    data, chat, out = made / "data", made / "chat", tmp_path / "out"
    for words, code, message in (
        (("--data", data, "--model", "gpt2"), 2, "gpt2 has random weights"),
        (("--data", made / "chats", "--model", chat, "--objective", "dpo"), 2, "was prepared for chat"),
        (("--data", data, "--model", chat, "--objective", "likelihood"), 2, "holds preference pairs"),
        (
            ("--data", made / "chats", "--model", chat, "--set", "dpo.beta=0.5"),
            2,
            "has no effect without --objective dpo",
        ),
        (
            ("--data", data, "--model", chat, "--set", "dpo.loss=ipo", "--set", "dpo.label_smoothing=0.1"),
            2,
            "no effect",
        ),
        (("--data", data, "--model", chat, "--set", "max_length=3"), 3, "no pair of the train split fits"),
    ):
        done = llmctl("train", *words, "--out", out)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    done = llmctl("eval", "--model", chat, "--data", data)
    assert (done.returncode, "its reference model is unknown" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_tune_like_one(
    tune: Callable[..., dict[str, Any]], llmctl: Run, made: Path, tmp_path: Path, parallel: str
) -> None:
    words = ("--max-steps", "3", "--set", "log_every=1", "--set", "micro_batch_size=2")
    tune(tmp_path / "one", *words)
    base = (
        "--data",
        made / "data",
        "--model",
        made / "chat",
        "--precision",
        "fp32",
        "--batch-size",
        "8",
        "--lr",
        "0.001",
    )
    done = llmctl("train", *base, *words, "--processes", "2", "--parallel", parallel, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        for name in one.keys() - {"seconds", "tokens_per_second", "grad_norm"}:
            assert two[name] == pytest.approx(one[name], abs=2e-6), name


def test_tensorboard_shows_the_rows_of_the_metrics_also_after_a_resumption(
    tune: Callable[..., dict[str, Any]], inside: Inside, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    words = ("--set", "log_every=1", "--set", "eval_every=2", "--tracker", "tensorboard")
    tune(out, "--max-steps", "4", *words)
    inside("train", "--resume", out, "--max-steps", "6")
    events = EventAccumulator(str(out / "trackers" / "tensorboard" / "run"))
    events.Reload()
    for name in ("loss", "reward_margin", "validation_loss"):
        logged = {event.step: event.value for event in events.Scalars(name)}
        expected = {row["step"]: row[name] for row in rows_of(out) if name in row}
        assert logged == pytest.approx(expected, rel=1e-6)


def test_a_tracker_that_is_not_installed_is_named_with_its_package(llmctl: Run, made: Path, tmp_path: Path) -> None:
    words = ("--data", made / "chats", "--model", "gpt2:nano", "--tracker", "trackio", "--out", tmp_path / "out")
    done = llmctl("train", *words)
    assert (done.returncode, "pip install trackio" in done.stderr) == (4, True), done.stderr
    assert not (tmp_path / "out").exists()
