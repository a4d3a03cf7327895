"""Pretrained speech models: wav2vec 2.0 folders as others write them, and an adapter on a Whisper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from llmctl import registry
from llmctl.data.audio import sound
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.types import Audio
from tests import speech_models

Inside = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained-speech")


@pytest.fixture(scope="module")
def data(inside: Inside, folder: Path) -> Path:
    inside("preprocess", "spoken-numbers-en-voices", "--tokenizer", "char", "--out", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def wav2vec2(folder: Path) -> Path:
    """A folder as transformers writes it: weights, vocab.json, preprocessor_config.json."""
    place = folder / "wav2vec2"
    place.mkdir()
    return speech_models.wav2vec2(place)


def test_the_tokenizer_is_that_of_transformers(wav2vec2: Path) -> None:
    own, library = load_tokenizer(wav2vec2), Wav2Vec2CTCTokenizer.from_pretrained(wav2vec2)
    ids = own.encode("forty two", add_special_tokens=False)
    assert ids == library.encode("FORTY TWO")
    assert own.decode(ids) == "FORTY TWO"


def test_a_wav2vec2_folder_transcribes_as_transformers_does(inside: Inside, wav2vec2: Path, folder: Path) -> None:
    with registry.load("datasets", "spoken-numbers-en-voices").path() as path:
        import pyarrow.parquet as pq

        row = pq.read_table(path).to_pylist()[3]
    (folder / "a.flac").write_bytes(row["audio"]["bytes"])
    [found] = inside("generate", "--model", wav2vec2, "--input", folder / "a.flac")["completions"]
    samples = sound.read(Audio(str(folder / "a.flac")))
    inputs = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        path_of_tokens = Wav2Vec2ForCTC.from_pretrained(wav2vec2).eval()(inputs.input_values).logits.argmax(-1)
    library = Wav2Vec2CTCTokenizer.from_pretrained(wav2vec2)
    assert found["text"] == library.decode(path_of_tokens[0], skip_special_tokens=True).strip()


def test_a_wav2vec2_folder_is_fine_tuned(inside: Inside, data: Path, wav2vec2: Path, folder: Path) -> None:
    words = ("--max-steps", "2", "--batch-size", "4", "--set=precision=fp32")
    inside("train", "--data", data, "--model", wav2vec2, *words, "--out", folder / "tuned")
    scores = inside("eval", "--model", folder / "tuned", "--data", data, "--limit", "2")["scores"]
    assert [score["metric"] for score in scores] == ["wer", "cer"]


def test_an_adapter_on_a_whisper(inside: Inside, data: Path, folder: Path) -> None:
    shape = ("--set=model.layers=1", "--set=model.hidden=16", "--set=model.heads=2", "--set=model.inner=32")
    words = ("--max-steps", "1", "--batch-size", "2", "--set=precision=fp32")
    inside("train", "--data", data, "--model", "whisper", *shape, *words, "--out", folder / "base")
    inside("train", "--data", data, "--model", folder / "base", "--adapter", "lora", *words, "--out", folder / "lora")
    words = ("--input", "spoken-numbers-en-voices", "--max-new-tokens", "2", "--output", folder / "rows.jsonl")
    found = inside("generate", "--model", folder / "lora", *words)
    assert len(found["completions"]) == 60
