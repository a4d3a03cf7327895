"""`llmctl show models RUN --nearest WORD`: neighbours in the embedding table, in every architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmctl import registry
from llmctl.cli import main
from llmctl.data.tokenizing import tokenizers
from llmctl.models.spec import Vocabulary

TEXT = "床前明月光，疑是地上霜。举头望明月，低头思故乡。the king and the queen"


def folder_of(name: str, place: Path, kind: str = "char") -> Path:
    """A model of random weights in whose embeddings 月 and 霜 are alike, and king and queen."""
    spec = registry.load("models", name)
    tokenizer = tokenizers.train(kind, lambda: [TEXT] * 40, 40 * len(TEXT), 600)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    torch.manual_seed(0)
    vocabulary = Vocabulary(size, 0, 1, 2)
    model = spec.build(spec.sizes["nano"], vocabulary, ("bad", "good") if spec.family == "encoder" else ())
    (rows,) = (each for each in model.parameters() if each.ndim == 2 and len(each) == size)
    ids_of = tokenizer.encode
    with torch.no_grad():
        rows.normal_()
        for one, other in (("月", "霜"), (" king", " queen")):
            ids = [ids_of(each, add_special_tokens=False).ids for each in (one, other)]
            if len(ids[0]) == len(ids[1]) == 1:
                rows[ids[1][0]] = rows[ids[0][0]] + 0.1 * torch.randn(rows.shape[1])
    model.save_pretrained(place)
    tokenizers.save(tokenizer, place)
    return place


WITHOUT_EMBEDDINGS = {"ctc"}
"""They read sound, and no token that they wrote before."""


@pytest.mark.parametrize(
    "name", [each.name for each in registry.entries("models") if each.name not in WITHOUT_EMBEDDINGS]
)
def test_the_nearest_token_is_first_in_every_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place = folder_of(name, tmp_path / "model")
    assert main.run(["show", "models", str(place), "--nearest", "月", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tokens"] == ["月"]
    assert [document["neighbours"][0]["text"], len(document["neighbours"])] == ["霜", 10]
    cosines = [each["cosine"] for each in document["neighbours"]]
    assert cosines == sorted(cosines, reverse=True)
    assert 0.9 < cosines[0] < 1
    assert not any("<|" in each["text"] for each in document["neighbours"])


@pytest.mark.parametrize("name", sorted(WITHOUT_EMBEDDINGS))
def test_a_model_without_embeddings_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    place = folder_of(name, tmp_path / "model")
    assert main.run(["show", "models", str(place), "--nearest", "月"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"no table of token embeddings found in {place}" in said.err


def test_a_word_is_found_with_its_leading_blank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder_of("gpt2", tmp_path / "model", "bpe")
    assert main.run(["show", "models", str(place), "--nearest", "king"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("king  in transformer.wte.weight of ")
    assert said.partition("cosine\n")[2].split()[:1] == ["queen"], said


def test_the_parts_of_a_word_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder_of("lstm", tmp_path / "model")
    assert main.run(["show", "models", str(place), "--nearest", "明月"]) == 0
    assert "the mean of its tokens: 明 · 月" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "{model}", "--nearest", "龘"], "'龘' is not in the vocabulary of the model"),
        (["models", "{model}", "--nearest", " "], "--nearest needs a word"),
        (["models", "gpt2", "--nearest", "x"], "gpt2 is an untrained architecture"),
        (["tasks", "chat", "--nearest", "x"], "--nearest is only valid for: llmctl show models RUN --nearest WORD"),
        (["data", "{model}", "--nearest", "x"], "--nearest is only valid for"),
        (["models", "{model}", "--nearest", "月", "--measure"], "--measure is only valid for"),
    ],
)
def test_what_has_no_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    model = folder_of("lstm", tmp_path / "model") if "{model}" in words else tmp_path
    assert main.run(["show", *(word.format(model=model) for word in words)]) == 2
    assert message in capsys.readouterr().err
