"""What a model that is told in words is told: the user's own words in the place of the task's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.data.examples.layout import prompt_format_for
from llmctl.data.spec import INSTRUCTION_FORMATS
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.store.tokenizers import uses_instruction

Inside = Callable[..., dict[str, Any]]

WANTED = "Translate the text into Chinese."
SET = ("--set", f"instruction={WANTED}")
ECHO = ("--prompt", "Shall I", "--set", "engine=echo", "--max-new-tokens", 80)


@pytest.fixture(scope="module")
def told(inside: Inside, chat_folders: dict[str, Path], dates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of given weights with a chat template, told which language to translate into."""
    run = tmp_path_factory.mktemp("told") / "run"
    given = ("--model", chat_folders["llama"], "--data", dates, "--out", run, "--max-steps", 2, "--batch-size", 2)
    inside("train", *map(str, given), *SET)
    return run


def card(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "model/llmctl.json").read_text(encoding="utf-8"))
    return found


def asked(inside: Inside, model: Path, *more: str) -> str:
    """What the model sees, as the echo says it."""
    [row] = inside("generate", "--model", model, *map(str, ECHO), *more)["completions"]
    text: str = row["text"]
    return text


def refused(inside: Inside, *words: str | Path) -> str:
    error = inside(*words, code=2)["error"]
    return f"{error['message']} {error['hint']}"


def test_a_zero_shot_translator_is_told_the_language(inside: Inside, chat_folders: dict[str, Path]) -> None:
    model, task = chat_folders["llama"], ("--task", "translation")
    assert asked(inside, model, *task) == "Translate the text.\n\nShall I"
    assert asked(inside, model, *task, *SET) == f"{WANTED}\n\nShall I"
    assert asked(inside, model, *task, "--set", "instruction=''") == "Shall I"


def test_a_run_that_goes_on_from_another_keeps_what_that_one_learned_to_be_told(
    inside: Inside, told: Path, dates: Path, tmp_path: Path
) -> None:
    words = ("--model", told, "--data", dates, "--max-steps", "1", "--batch-size", "2", "--out")
    inside("train", *words, tmp_path / "on")
    assert card(tmp_path / "on")["instruction"] == WANTED
    inside("train", *words, tmp_path / "other", "--set", "instruction=Say it in Chinese.")
    assert card(tmp_path / "other")["instruction"] == "Say it in Chinese."


def test_a_trained_model_is_asked_with_the_instruction_it_learned(inside: Inside, told: Path) -> None:
    assert (card(told)["style"], card(told)["instruction"]) == ("template", WANTED)
    assert asked(inside, told) == f"{WANTED}\n\nShall I"
    assert asked(inside, told, "--set", "instruction=Say it in German.") == "Say it in German.\n\nShall I"


def test_labels_are_named_after_an_instruction(
    inside: Inside, chat_folders: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    given = ("--model", chat_folders["llama"], "--data", reviews, "--out", tmp_path / "run", "--max-steps", 1)
    inside("train", *map(str, given), "--set", "instruction=Is it praise?")
    assert card(tmp_path / "run")["instruction"] == "Is it praise? The labels are: negative, positive."


def test_scores_of_another_instruction_have_another_signature(inside: Inside, told: Path, dates: Path) -> None:
    words = ("eval", "--model", told, "--data", dates, "--limit", "2", "--metric", "bleu", "--metric", "perplexity")
    few = ("--set", "max_new_tokens=2")
    own, one, other = (inside(*words, *few, *more) for more in ((), SET, ("--set", "instruction=Say it in German.")))
    signatures = [[score["signature"] for score in document["scores"]] for document in (own, one, other)]
    assert not any("instruction:" in each for each in signatures[0])
    assert all("|instruction:" in each for each in signatures[1] + signatures[2])
    assert all(before != after for before, after in zip(signatures[1], signatures[2], strict=True))
    values = [[score["value"] for score in document["scores"]] for document in (own, one, other)]
    assert values[0] == values[1] != values[2]
    assert ("instruction" in own, one["instruction"]) == (False, WANTED)
    kept = json.loads((Path(other["predictions"]).parent / "scores.json").read_text(encoding="utf-8"))
    assert kept["instruction"] == "Say it in German."


def test_show_data_shows_the_instruction(inside: Inside, told: Path, dates: Path) -> None:
    def shown(*more: str) -> str:
        document = inside("show", "data", dates, "--model", told, *more)
        return "".join(row["text"] for row in document["tokens"] if not row["learned"])

    assert WANTED in shown()
    assert "Say it in German." in shown("--instruction", "Say it in German.")
    assert WANTED not in shown("--instruction", "Say it in German.")


def test_an_instruction_that_nothing_reads_is_refused(
    inside: Inside, chat_folders: dict[str, Path], dates: Path, reviews: Path, sonnets: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "run")
    why = {
        "control tokens": ("train", "--data", dates, "--model", "gpt2", *out),
        "encoder-decoder": ("train", "--data", dates, "--model", "lstm-seq2seq", *out),
        "family encoder": ("train", "--data", reviews, "--model", "bert", *out),
        "language-modeling has none": ("train", "--data", sonnets, "--model", chat_folders["llama"], *out),
        "chat has none": ("generate", "--model", chat_folders["llama"], "--prompt", "Hello"),
        "is for --model": ("eval", "--predictions", "a.txt", "--references", "a.txt"),
    }
    for words, command in why.items():
        told = refused(inside, *command, *SET)
        assert words in told
        assert "instruction" in told
    assert "control tokens" in refused(inside, "show", "data", dates, "--model", "gpt2", "--instruction", WANTED)
    assert not (tmp_path / "run").exists()


def test_who_is_told_is_known_before_the_tokenizer_is_opened(
    chat_folders: dict[str, Path], dates: Path, tmp_path: Path
) -> None:
    foreign = shutil.copytree(dates / "tokenizer", tmp_path / "foreign")
    text = (foreign / "tokenizer.json").read_text(encoding="utf-8").replace("<|sep|>", "<|other|>")
    (foreign / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = json.loads((foreign / "tokenizer_config.json").read_text(encoding="utf-8"))
    (foreign / "tokenizer_config.json").write_text(json.dumps(settings | {"sep_token": None}), encoding="utf-8")
    folders = {dates / "tokenizer": False, chat_folders["llama"]: True, chat_folders["lm"]: False, foreign: True}
    for folder, expected in folders.items():
        prompt_format = prompt_format_for("decoder", load_tokenizer(folder), packed=False)
        assert (uses_instruction(folder), prompt_format in INSTRUCTION_FORMATS) == (expected, expected)
