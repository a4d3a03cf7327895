"""The Python of a model card answers as `llmctl generate` does, with transformers alone."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Inside = Callable[..., dict[str, Any]]

RECURRENT = ("--set=model.hidden=24", "--set=model.embedding=16")
TRANSFORMER = ("--set=model.layers=1", "--set=model.hidden=16", "--set=model.heads=2", "--set=model.inner=32")


@pytest.fixture(scope="module")
def prepared(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A built-in set of each task in small."""
    root = tmp_path_factory.mktemp("prepared")
    words = {
        "sonnets": ("--vocab-size", "400", "--set", "block_size=32"),
        "dates-en-zh": ("--vocab-size", "500"),
        "reviews": ("--tokenizer", "word", "--vocab-size", "1000", "--set", "clean.lowercase=true"),
        "smalltalk-en": ("--vocab-size", "500"),
        "trivia": ("--vocab-size", "500"),
    }
    for name, more in words.items():
        inside("preprocess", name, "--out", root / name, *more)
    return {name: root / name for name in words}


def taught(inside: Inside, data: Path, run: Path, model: str | Path, *words: str) -> None:
    inside("train", "--data", data, "--model", model, "--out", run, "--max-steps", "12", "--lr", "0.01", *words)


def by_hand(run: Path, text: str) -> str:
    """What the card's Python prints, run as it stands but for the text."""
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    opening, asking = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert asking.count('"TEXT"') == 1
    out = io.StringIO()
    with contextlib.chdir(run.parent), contextlib.redirect_stdout(out):
        exec(opening + asking.replace('"TEXT"', repr(text)), {"__name__": "card"})
    return out.getvalue().removesuffix("\n")


def by_llmctl(inside: Inside, run: Path, text: str) -> dict[str, Any]:
    [row] = inside("generate", "--model", run, "--prompt", text)["completions"]
    return row


@pytest.mark.parametrize(
    ("data", "model", "small", "texts"),
    [
        ("sonnets", "lstm", RECURRENT, ("Shall I compare", "", "thee <|eos|> a")),
        ("sonnets", "gpt2", (*TRANSFORMER, "--set=model.context=48"), ("Shall I compare thee",)),
        ("dates-en-zh", "lstm-seq2seq", RECURRENT, ("Friday, July 4, 2031", "3 PM")),
        ("dates-en-zh", "attention", TRANSFORMER, ("Friday, July 4, 2031",)),
        ("dates-en-zh", "t5", TRANSFORMER, ("Friday, July 4, 2031",)),
        ("trivia", "llama", TRANSFORMER, ("What is rice?",)),
        ("smalltalk-en", "gpt2", (*TRANSFORMER, "--max-steps", "60"), ("How are you?",)),
    ],
)
def test_a_card_s_python_says_what_generate_says(
    inside: Inside, prepared: dict[str, Path], tmp_path: Path, data: str, model: str, small: tuple[str, ...], texts: Any
) -> None:
    taught(inside, prepared[data], tmp_path / "run", model, *small)
    for text in texts:
        row = by_llmctl(inside, tmp_path / "run", text)
        assert row["tokens"] > 0
        expected = text + row["text"] if data == "sonnets" else row["text"]
        assert by_hand(tmp_path / "run", text) == expected


TEXTS = ("Great Film!", "It BROKE after a week.", "so bad", "I love it.", "The food was cold, the staff rude.")


@pytest.mark.parametrize(
    ("model", "small"),
    [
        ("bert", TRANSFORMER),
        ("lstm-classifier", RECURRENT),
        ("gpt2", TRANSFORMER),
        ("lstm-seq2seq", RECURRENT),
        ("bart", TRANSFORMER),
    ],
)
def test_a_card_s_python_names_the_label_that_generate_names(
    inside: Inside, prepared: dict[str, Path], tmp_path: Path, model: str, small: tuple[str, ...]
) -> None:
    taught(inside, prepared["reviews"], tmp_path / "run", model, *small, "--max-steps", "40")
    assert ", lower case." in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    expected = [by_llmctl(inside, tmp_path / "run", text)["text"] for text in TEXTS]
    assert [by_hand(tmp_path / "run", text) for text in TEXTS] == expected
    assert set(expected) <= {"negative", "positive"}


@pytest.mark.parametrize("template", [True, False])
def test_a_card_of_given_weights_tells_their_instruction(
    inside: Inside, prepared: dict[str, Path], tmp_path: Path, template: bool
) -> None:
    """A tokenizer with a chat template, and one that has neither that nor control tokens of ours."""
    taught(inside, prepared["smalltalk-en"], tmp_path / "given", "gpt2", *TRANSFORMER)
    given = tmp_path / "given" / "model"
    (given / "llmctl.json").unlink()
    if not template:
        (given / "chat_template.jinja").unlink()
        plain = (given / "tokenizer.json").read_text(encoding="utf-8").replace("<|sep|>", "<|other|>")
        (given / "tokenizer.json").write_text(plain, encoding="utf-8")
        settings = json.loads((given / "tokenizer_config.json").read_text(encoding="utf-8"))
        (given / "tokenizer_config.json").write_text(json.dumps(settings | {"sep_token": None}), encoding="utf-8")
    for data in ("trivia", "reviews"):
        taught(inside, prepared[data], tmp_path / data, given)
        told = json.loads((tmp_path / data / "model" / "llmctl.json").read_text(encoding="utf-8"))
        assert told["style"] == ("template" if template else "plain")
        assert told["instruction"]
        assert by_hand(tmp_path / data, "What is tea?") == by_llmctl(inside, tmp_path / data, "What is tea?")["text"]
