"""The checks of a comparison: every fault at once, nothing written; the plan; names of runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmctl.store import locks
from llmctl.workflows.compare.checks import run_names

Inside = Callable[..., dict[str, Any]]


def refused(inside: Inside, data: Path, models: str, out: Path, *more: str, code: int = 2) -> str:
    document = inside("compare", "--data", data, "--models", models, "--out", out, *more, code=code)
    message: str = document["error"]["message"] + (document["error"]["hint"] or "")
    return message


def test_the_plan_names_models_parameters_and_learning_rates(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--models", "rnn,lstm", "--models", "gpt2:tiny", "--max-tokens", "2M", "--set", "search.rates=5")
    document = inside("compare", "--data", sonnets, *words, "--out", out, "--set", "lrs.lstm=0.5", "--dry-run")
    models = document["plan"]["models"]
    assert [each["model"] for each in models] == ["rnn", "lstm", "gpt2:tiny"]
    rates = models[0]["learning_rates"]
    assert len(rates) == 5
    assert [round(after / before, 1) for before, after in pairwise(rates)] == [3.0] * 4
    assert models[1]["learning_rates"] == [0.5]
    assert models[2]["run"] == str(out / "runs" / "gpt2-tiny")
    assert all(each["parameters"] > 0 for each in models)
    assert document["compare"]["max_tokens"] == 2_000_000
    assert not out.exists()


def test_every_fault_is_told_at_once(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    sets = ("--set", "search.rates=2", "--set", "train.clip_nrom=1", "--set", "train.schedule.nam=linear")
    message = refused(inside, sonnets, "rnn,gtp2,gpt2:nan", tmp_path / "out", *sets)
    for words in (
        "models.1: no model named 'gtp2'; did you mean 'gpt2'?",
        "models.2: gpt2 has no size 'nan'",
        "search: 2 is even",
        "train.clip_nrom: unknown key; did you mean 'clip_norm'?",
        "train.schedule.nam: unknown key; did you mean 'name'?",
    ):
        assert words in message
    message = refused(inside, sonnets, "rnn,gpt2,marian", tmp_path / "out", "--set", "train.model.heads=4")
    assert "train.model.heads: rnn has no such setting" in message
    assert "models.2: marian can be trained on language-modeling but cannot be prompted" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("models", "more", "words"),
    [
        ("gpt2,gpt2:nano", (), "gpt2:nano and gpt2 are the same model"),
        ("rnn", ("--set", "lrs.lstm=1e-3"), "lrs.lstm: is not a model in the comparison"),
        ("rnn", ("--set", "train.batch_size=8"), "not allowed here: batch_size"),
        ("rnn", ("--set", "train.lr=1e-3"), "not allowed here: lr"),
        ("rnn", ("--metric", "bleu"), "compares answers"),
        ("rnn", ("--metric", "perplexty"), "did you mean 'perplexity'?"),
        ("rnn", ("--lr", "-1"), "lr: must be greater than 0"),
    ],
)
def test_what_makes_no_comparison_is_said_before(
    models: str, more: tuple[str, ...], words: str, inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    assert words in refused(inside, sonnets, models, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_search_needs_a_validation_split(inside: Inside, tmp_path: Path) -> None:
    data = tmp_path / "data"
    inside("preprocess", "sonnets", "--out", data, "--vocab-size", "300", "--set", "splits.validation=0")
    assert "the search needs a validation split" in refused(inside, data, "rnn", tmp_path / "out")
    words = ("--data", data, "--models", "rnn", "--out", tmp_path / "out", "--lr", "1e-3")
    assert inside("compare", *words, "--dry-run")["plan"]["models"][0]["learning_rates"] == [0.001]


def test_what_is_in_the_way_is_left_alone(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "exists" in refused(inside, sonnets, "rnn", tmp_path / "mine")
    assert "llmctl did not make it" in refused(inside, sonnets, "rnn", tmp_path / "mine", "--force")
    assert "lies inside the input" in refused(inside, sonnets, "rnn", sonnets / "out")
    assert (
        "not a comparison that can be resumed"
        in inside("compare", "--resume", tmp_path / "mine", code=2)["error"]["message"]
    )
    with locks.locked(tmp_path / "mine"):
        assert "in use by process" in refused(inside, sonnets, "rnn", tmp_path / "mine", code=7)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_runs_are_named_after_their_models() -> None:
    models = ["gpt2:nano", "hf:org/name", "/a/one/model", "/b/one", "lstm"]
    assert run_names(models) == ["gpt2-nano", "org-name", "one", "one-2", "lstm"]
