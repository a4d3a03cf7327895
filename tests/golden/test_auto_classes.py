"""What llmctl writes opens elsewhere: models with the Auto classes, tokenizers too, prepared data with `datasets`.

The reference is the transformers library itself, in a process of its own: it runs the Python of each model card as
printed, offline and with an empty cache, and its logits must be those that llmctl generates and scores by.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import llmctl
from llmctl.data.storing.text import read_text
from llmctl.store.prepared import open_prepared
from llmctl.types import Record, Request
from llmctl.workflows.inference.session import Predictor, open_predictor

Inside = Callable[..., dict[str, Any]]

LIBRARY = ("gpt2", "llama", "bert")
"""Architectures that transformers knows without us."""
OWN = ("rnn", "lstm", "attention", "lstm-seq2seq", "lstm-classifier")
RECURRENT = ("model.hidden=24", "model.embedding=16")
TRANSFORMER = ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32")
PROMPTS = {
    "language-modeling": "Shall I compare thee to a summer's day?",
    "translation": "Friday, July 4, 2031",
    "classification": "The food was wonderful.",
}
OPEN = """
import json, re, sys, torch
from pathlib import Path

answers = {}
for name, asked in json.load(sys.stdin).items():
    card = Path(name, "model", "README.md").read_text(encoding="utf-8")
    snippet, *_ = re.findall(r"^```python\\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    names = {}
    exec(snippet, names)
    model, tokenizer = names["model"], names["tokenizer"]
    inputs = {key: torch.tensor([ids]) for key, ids in asked["inputs"].items()}
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    ids = tokenizer(asked["text"], add_special_tokens=False).input_ids
    answers[name] = {
        "class": type(model).__name__,
        "training": model.training,
        "ids": ids,
        "text": tokenizer.decode(ids),
        "logits": logits.tolist(),
        "llmctl": sorted(module for module in sys.modules if module.partition(".")[0] == "llmctl"),
    }
print(json.dumps(answers))
"""
SNIPPET = """
import json, re, sys
from pathlib import Path

(snippet,) = (
    block for block in re.findall(r"^```python\\n(.*?)^```$", Path(sys.argv[1]).read_text(encoding="utf-8"), re.M | re.S)
    if "from_pretrained" in block
)
names = {}
exec(snippet, names)
print(json.dumps([type(names["model"]).__name__, len(names["tokenizer"]), sorted(names["pairs"])]))
"""
DATA = """
import json, sys
from datasets import load_dataset
from transformers import AutoTokenizer

found = {}
for folder in sys.argv[1:]:
    splits = load_dataset(folder)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
    first = next(value for name, value in splits["train"][0].items() if name != "id")
    found[folder] = {
        "rows": {split: [dict(row) for row in rows] for split, rows in splits.items()},
        "text": first,
        "decoded": tokenizer.decode(tokenizer(first).input_ids),
        "size": len(tokenizer),
    }
print(json.dumps(found))
"""


def elsewhere(script: str, folder: Path, home: Path, *words: str, **more: Any) -> Any:
    """Run a script offline, with an empty cache of its own, and give what it prints as JSON."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, env=environment, capture_output=True, text=True, **more
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(inside: Inside, sonnets: Path, dates: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run of every architecture, under its name."""
    folder = tmp_path_factory.mktemp("runs")
    data = {"lstm-seq2seq": dates, "lstm-classifier": reviews, "bert": reviews}
    for name in (*LIBRARY, *OWN):
        shape = RECURRENT if name.startswith(("rnn", "lstm")) else TRANSFORMER
        sets = [f"--set={each}" for each in (*shape, "max_steps=3")]
        inside("train", "--data", data.get(name, sonnets), "--model", name, "--out", folder / name, *sets)
    return folder


@pytest.fixture(scope="module")
def predictors(runs: Path) -> dict[str, Predictor]:
    """The runs as llmctl itself opens them."""
    return {name: open_predictor(str(runs / name)) for name in (*LIBRARY, *OWN)}


def question(predictor: Predictor) -> tuple[str, dict[str, list[int]]]:
    """The text of a prompt, and the model inputs that it becomes."""
    text = PROMPTS[predictor.task.name]
    record = Record("0", dict(predictor.task.record_of(text)))
    ids = list(predictor.request_builder.generation_request(record).input_ids)
    if predictor.engine.family == "encoder-decoder":  # type: ignore[attr-defined]
        start = predictor.engine.model.config.decoder_start_token_id  # type: ignore[attr-defined]
        return text, {"input_ids": ids, "decoder_input_ids": [start, *ids[:4]]}
    return text, {"input_ids": ids}


@pytest.fixture(scope="module")
def opened(
    runs: Path, predictors: Mapping[str, Predictor], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the Python of each model card gives; the library's own architectures first, in a process of their own."""
    found: dict[str, dict[str, Any]] = {}
    for names in (LIBRARY, OWN):
        asked = {}
        for name in names:
            text, inputs = question(predictors[name])
            asked[name] = {"text": text, "inputs": inputs}
        found |= elsewhere(OPEN, runs, tmp_path_factory.mktemp("home"), input=json.dumps(asked))
    return found


@pytest.mark.parametrize("name", [*LIBRARY, *OWN])
def test_the_model_card_s_python_gives_the_logits_that_llmctl_answers_by(
    name: str, predictors: Mapping[str, Predictor], opened: Mapping[str, dict[str, Any]]
) -> None:
    engine: Any = predictors[name].engine
    _, inputs = question(predictors[name])
    with torch.no_grad():
        ours = engine.model(**{key: torch.tensor([ids]) for key, ids in inputs.items()}).logits[0]
    theirs = torch.tensor(opened[name]["logits"])
    assert opened[name]["class"] == type(engine.model).__name__
    assert opened[name]["training"] is False
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "rnn", "lstm", "attention", "lstm-seq2seq"])
def test_likelihoods_are_the_log_softmax_of_those_logits(
    name: str, predictors: Mapping[str, Predictor], opened: Mapping[str, dict[str, Any]]
) -> None:
    _, inputs = question(predictors[name])
    log_p = torch.tensor(opened[name]["logits"], dtype=torch.float64).log_softmax(-1)
    if "decoder_input_ids" in inputs:
        prompt, answer = tuple(inputs["input_ids"]), tuple(inputs["decoder_input_ids"][1:])
        wanted = sum(float(log_p[place, token]) for place, token in enumerate(answer))
    else:
        prompt, answer = tuple(inputs["input_ids"][:3]), tuple(inputs["input_ids"][3:])
        wanted = sum(float(log_p[place, token]) for place, token in enumerate(answer, start=2))
    (found,) = predictors[name].engine.score([Request("0", prompt, answer)])
    assert found.logprob == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "lstm-classifier"])
def test_the_label_is_the_likeliest_of_those_logits_and_stands_in_the_config(
    name: str, runs: Path, inside: Inside, opened: Mapping[str, dict[str, Any]]
) -> None:
    labels = json.loads((runs / name / "model/config.json").read_text(encoding="utf-8"))["id2label"]
    chosen = int(torch.tensor(opened[name]["logits"]).argmax())
    document = inside("generate", "--model", runs / name, "--prompt", PROMPTS["classification"])
    assert document["completions"][0]["text"] == labels[str(chosen)]


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_s_own_architectures_open_without_llmctl(name: str, opened: Mapping[str, dict[str, Any]]) -> None:
    assert opened[name]["llmctl"] == []


@pytest.mark.parametrize("name", [*LIBRARY, *OWN])
def test_the_tokenizer_beside_the_model_is_the_one_it_was_taught_with(
    name: str, predictors: Mapping[str, Predictor], opened: Mapping[str, dict[str, Any]]
) -> None:
    text, _ = question(predictors[name])
    assert opened[name]["ids"] == predictors[name].request_builder.layout.encode(text)
    if name not in ("bert", "lstm-classifier"):  # a tokenizer of words does not know every word
        assert opened[name]["text"] == text


def test_prepared_data_opens_with_datasets_and_its_tokenizer_with_transformers(
    sonnets: Path, dates: Path, reviews: Path, tmp_path: Path
) -> None:
    folders = (sonnets, dates, reviews)
    found = elsewhere(DATA, tmp_path, tmp_path / "home", *map(str, folders))
    for folder in folders:
        prepared, there = open_prepared(folder), found[str(folder)]
        assert set(there["rows"]) == {"train", "validation", "test"}
        for split, rows in there["rows"].items():
            assert rows == [
                {"id": each.id, **each.fields, "origin": each.origin} for each in read_text(prepared.text(split))
            ]
            assert len(rows) == prepared.manifest.splits[split] > 0
        assert there["size"] == prepared.manifest.tokenizer.vocab_size
    for folder in (sonnets, dates):
        assert found[str(folder)]["decoded"] == found[str(folder)]["text"]


def test_the_python_of_the_training_page_runs_as_printed(
    runs: Path, dates: Path, predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    for place, made in (("runs/translator", runs / "lstm-seq2seq"), ("data/dates", dates)):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).symlink_to(made, target_is_directory=True)
    page = Path(llmctl.__file__).parent.parent / "docs" / "training.md"
    name, size, splits = elsewhere(SNIPPET, tmp_path, tmp_path / "home", str(page))
    engine: Any = predictors["lstm-seq2seq"].engine
    assert (name, size) == (type(engine.model).__name__, len(engine.tokenizer))
    assert splits == ["test", "train", "validation"]
