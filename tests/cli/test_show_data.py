"""`llmctl show data`: what a model sees of a record, and what of it is learned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli import main
from llmctl.cli.render import marked

EXAMPLES = {
    "classification": {"text": "So good", "label": "up"},
    "translation": {"source": "Good day", "target": "Guten Tag"},
    "summarization": {"document": "A long story", "summary": "A story"},
    "question-answering": {"question": "Who?", "answers": ["Ann", "Anna"], "context": "Ann came"},
    "chat": {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "See you"},
        ]
    },
    "language-modeling": {"text": "Shall I compare thee to a summer's day? " * 5},
}


@pytest.fixture(scope="module")
def prepared(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One record of each task."""
    root = tmp_path_factory.mktemp("shown")
    for task, record in EXAMPLES.items():
        (root / f"{task}.jsonl").write_text(json.dumps({"id": "first", **record}) + "\n", encoding="utf-8")
        none = ("--set", "splits.validation=0", "--set", "splits.test=0", "--set", "block_size=16")
        words = ("--task", task, "--out", root / task, "--tokenizer", "byte", *none)
        inside("preprocess", root / f"{task}.jsonl", *words)
    return {task: root / task for task in EXAMPLES}


def said(document: dict[str, Any], *, learned: bool) -> str:
    return "".join(token["text"] for token in document["tokens"] if token["learned"] is learned)


@pytest.mark.parametrize(
    ("task", "model", "given", "learned"),
    [
        ("classification", "gpt2", "<|bos|>So good<|sep|>", "up<|eos|>"),
        ("classification", "lstm-seq2seq", "So good<|eos|>", "up<|eos|>"),
        ("classification", "bert", "<|bos|>So good<|eos|>", ""),
        ("translation", "llama", "<|bos|>Good day<|sep|>", "Guten Tag<|eos|>"),
        ("translation", None, "Good day<|eos|>", "Guten Tag<|eos|>"),
        ("summarization", "attention", "<|bos|>A long story<|sep|>", "A story<|eos|>"),
        ("summarization", "t5", "A long story<|eos|>", "A story<|eos|>"),
        ("question-answering", "lstm", "<|bos|>Ann came<|sep|>Who?<|sep|>", "Ann<|eos|>"),
        ("question-answering", "bart:tiny", "Ann came<|sep|>Who?<|eos|>", "Ann<|eos|>"),
        (
            "chat",
            "gpt2",
            "<|bos|><|user|>Hello<|eos|><|assistant|><|user|>Bye<|eos|><|assistant|>",
            "Hi<|eos|>See you<|eos|>",
        ),
        ("language-modeling", "gpt2", "<|bos|>", "Shall I compare "),
    ],
)
def test_every_token_is_shown_with_whether_it_is_learned(
    inside: Any, prepared: dict[str, Path], task: str, model: str | None, given: str, learned: str
) -> None:
    words = ("--model", model) if model else ()
    document = inside("show", "data", prepared[task], *words)
    assert document["schema"] == "llmctl.show/1"
    assert (said(document, learned=False), said(document, learned=True)) == (given, learned)
    assert document["learned"] == sum(token["learned"] for token in document["tokens"])
    assert all({"id", "text", "learned"} <= token.keys() for token in document["tokens"])
    assert document.get("label") == ("up" if model == "bert" else None)
    assert document.get("record") == (None if task == "language-modeling" else "first")
    if document["family"] == "encoder-decoder":
        assert [token["part"] for token in document["tokens"]] == sorted(token["part"] for token in document["tokens"])


def test_a_hidden_token_is_shown_with_what_has_to_be_said(inside: Any, prepared: dict[str, Path]) -> None:
    document = inside("show", "data", prepared["language-modeling"], "--model", "bert", "--index", "1")
    hidden = [token for token in document["tokens"] if token["learned"]]
    assert hidden
    assert all(token["target"] for token in hidden)
    assert document["examples"] > 1


def test_a_trained_model_reads_as_it_was_taught(inside: Any, prepared: dict[str, Path], tmp_path: Path) -> None:
    small = (
        "--set",
        "model.layers=1",
        "--set",
        "model.hidden=16",
        "--set",
        "model.heads=2",
        "--set",
        "model.context=24",
    )
    data = prepared["chat"]
    inside("train", "--data", data, "--model", "gpt2", "--out", tmp_path / "run", "--max-steps", 1, *small)
    document = inside("show", "data", data, "--model", tmp_path / "run")
    assert (document["family"], document["style"], len(document["tokens"])) == ("decoder", "control", 12)
    assert said(document, learned=True) == "Hi<|eos|>", "the second exchange does not fit into 24 tokens"


@pytest.mark.parametrize(("model", "published"), [("bert", 0.15), ("t5", 0.15), ("bart", 0.3)])
def test_as_much_of_a_text_is_taken_away_as_is_asked_for(
    inside: Any, prepared: dict[str, Path], tmp_path: Path, model: str, published: float
) -> None:
    data = prepared["language-modeling"]

    def taken(*words: str | Path) -> float:
        document = inside("show", "data", data, "--index", 1, "--model", *words)
        tokens = [token for token in document["tokens"] if token.get("part") != "target"]
        if model == "bert":
            return sum(token["learned"] for token in tokens) / (len(tokens) - 2)
        return 1 - sum(not token["text"].startswith("<|") for token in tokens) / 15

    assert taken(model) == pytest.approx(published, abs=0.05)
    small = ("model.layers=1", "model.hidden=16", "model.heads=2", "noise_density=0.5")
    settings = [word for each in small for word in ("--set", each)]
    inside("train", "--data", data, "--model", model, "--out", tmp_path / "run", "--max-steps", 1, *settings)
    assert taken(tmp_path / "run") == pytest.approx(0.5, abs=0.05)
    further = ("--model", tmp_path / "run", "--max-steps", 1)
    inside("train", "--data", data, "--out", tmp_path / "further", *further)
    assert taken(tmp_path / "further") == pytest.approx(0.5, abs=0.05), "a run goes on as it was begun"
    card = tmp_path / "run/model/llmctl.json"
    card.write_text(card.read_text().replace('"noise_density": 0.5', '"noise_density": 7'))
    assert str(card) in inside("show", "data", data, "--model", tmp_path / "run", code=5)["error"]["message"]


def test_a_model_with_another_tokenizer_reads_by_its_own(
    inside: Any, prepared: dict[str, Path], sonnets: Path, tmp_path: Path
) -> None:
    small = ("--set", "model.layers=1", "--set", "model.hidden=16", "--set", "model.embedding=8")
    inside("train", "--data", sonnets, "--model", "lstm", "--out", tmp_path / "run", "--max-steps", 1, *small)
    for task, start in (("translation", "<|bos|>Good day<|sep|>"), ("language-modeling", "<|bos|>")):
        other = inside("show", "data", prepared[task], "--model", tmp_path / "run")
        own = inside("show", "data", prepared[task], "--model", "gpt2")
        assert said(other, learned=False) == said(own, learned=False) == start
        assert [token["id"] for token in other["tokens"]] != [token["id"] for token in own["tokens"]]


def test_a_pipe_gets_brackets(prepared: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["show", "data", str(prepared["translation"]), "--model", "gpt2", "--index", "0"]) == 0
    out = capsys.readouterr().out
    assert "<|bos|> G o o d · d a y <|sep|> [G] [u] [t] [e] [n] [·] [T] [a] [g] [<|eos|>]\n" in out
    assert "10 of 20 tokens" in out
    assert main.run(["show", "data", str(prepared["classification"])]) == 0
    assert capsys.readouterr().out.endswith("label:\n[up]\n")


def test_brackets_of_the_text_are_no_marks_of_what_is_learned() -> None:
    cells = [("[MASK]", False), ("[x]", True), ("]", False)]
    assert marked(cells, colour=False) == r"\[MASK\] [\[x\]] \]"
    assert marked(cells, colour=True) == "[MASK] \x1b[1;32m[x]\x1b[0m ]"


def test_a_terminal_gets_colour_and_no_control_characters() -> None:
    assert marked([("a", False), ("b\x1b", True)], colour=True) == "a \x1b[1;32mb\\x1b\x1b[0m"
    assert marked([("a↵", True), ("b", False)], colour=False) == "[a↵]\nb"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "{chat}", "--index", "7"], "no example 7 in the split train, which has 1 examples"),
        (["data", "{chat}", "--index", "x"], "--index x is not an integer"),
        (["data", "{chat}", "--split", "trian"], "no such split: trian\n  did you mean 'train'?"),
        (
            ["data", "{chat}", "--model", "bert"],
            "bert is of the family encoder, chat needs decoder\n  models that can: rnn, lstm, attention, gpt2, llama\n",
        ),
        (
            ["data", "{language-modeling}", "--model", "lstm-classifier"],
            "lstm-classifier only predicts labels, language-modeling has none\n  models that can: rnn, ",
        ),
        (["data", "{chat}", "--model", "gpt2:huge"], "gpt2 has no size 'huge'"),
        (["data", "./nowhere"], "no such prepared folder: nowhere"),
        (["data"], "show data needs a prepared folder"),
        (["metrics", "bleu", "--index", "3"], "--index is only valid for: llmctl show data PREPARED"),
        (["data", "{chat}", "--data", "{chat}"], "--data is only valid for: llmctl show models NAME --data PREPARED"),
        (["data", "{chat}", "--measure"], "--measure is only valid for: llmctl show models NAME --data PREPARED"),
        (
            ["data", "{chat}", "--set", "batch_size=3"],
            "--set is only valid for: llmctl show models NAME --data PREPARED",
        ),
        (["tasks", "chat", "--data", "{chat}"], "--data is only valid for: llmctl show models NAME --data PREPARED"),
        (["models", "gtp2", "--data", "{chat}"], "did you mean 'gpt2'"),
        (["models", "gpt2", "--measure"], "--measure is only valid for: llmctl show models NAME --data PREPARED"),
    ],
)
def test_what_cannot_be_shown(
    prepared: dict[str, Path], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main.run(["show", *(word.format(**prepared) for word in words)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("task", ["chat", "language-modeling"])
def test_an_index_that_is_not_there_is_told_before_tokenizers_are_loaded(prepared: dict[str, Path], task: str) -> None:
    words = ["show", "data", str(prepared[task]), "--index", "9999"]
    probe = f"import sys; from llmctl.cli.main import run; print(run({words!r}), 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "no example 9999" in done.stderr
    assert done.stdout.split() == ["2", "False"]


def test_an_empty_split_is_bad_data(prepared: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["show", "data", str(prepared["chat"]), "--split", "test"]) == 3
    assert "the test split is empty" in capsys.readouterr().err
