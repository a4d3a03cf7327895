"""What `export` promises beside the formats: adapters are merged, damage is found, the folder prompts as training did."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from llmctl.workflows.export.verify import compare
from llmctl.workflows.inference.model import find_model
from tests.export.conftest import save_tokenizer

Inside = Callable[..., dict[str, Any]]
Source = Callable[[str], Path]

SMALL = ("--set", "model.layers=1", "--set", "model.hidden=32", "--set", "model.heads=2", "--max-steps", "2")


@pytest.fixture(scope="module")
def chats(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model trained here."""
    place = tmp_path_factory.mktemp("chat")
    inside("preprocess", "smalltalk-zh", "--task", "chat", "--vocab-size", "600", "--out", place / "data")
    inside("train", "--data", place / "data", "--model", "llama", "--out", place / "run", *SMALL)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where conversions of GGUF files are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_chat_model_for_ollama(inside: Inside, chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = inside("export", chats / "run", "--to", "gguf", "--out", out, "--verify", "4")
    source = chats / "run/model/model.safetensors"
    assert document["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert document["size_bytes"] == (out / "model-f32.gguf").stat().st_size
    modelfile = (out / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./model-f32.gguf\n")
    assert 'PARAMETER stop "<|eos|>"\n' in modelfile
    assert '{{ "<|bos|><|user|>" }}' in modelfile
    assert '{{ "<|assistant|>" }}{{ .Content }}{{ "<|eos|>" }}' in modelfile

    fields = gguf.GGUFReader(out / "model-f32.gguf").fields
    assert "message['role']" in fields["tokenizer.chat_template"].contents()
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False  # the template writes it
    types = fields["tokenizer.ggml.token_type"].contents()
    tokens = fields["tokenizer.ggml.tokens"].contents()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    assert {"<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"} <= set(control)

    asked = ("--prompt", "你好", "--max-new-tokens", "6")
    here, there = (inside("generate", "--model", each, *asked) for each in (chats / "run", out))
    assert here["completions"] == there["completions"]
    assert json.loads((out / "llmctl.json").read_text())["style"] == "control"


@pytest.mark.parametrize("to", ["gguf", "ctranslate2"])
def test_an_adapter_is_merged_on_the_way(inside: Inside, chats: Path, tmp_path: Path, to: str) -> None:
    words = (
        "--data",
        chats / "data",
        "--model",
        chats / "run",
        "--adapter",
        "lora",
        "--max-steps",
        "2",
        "--lr",
        "0.05",
    )
    inside("train", *words, "--out", tmp_path / "lora")
    document = inside("export", tmp_path / "lora", "--to", to, "--out", tmp_path / "out", "--verify", "4")
    assert all(check["met"] for check in document["checks"])
    adapter = tmp_path / "lora/model/adapter_model.safetensors"
    assert document["source_sha256"] == hashlib.sha256(adapter.read_bytes()).hexdigest()


def test_a_tokenizer_of_llama_2_is_exported_where_llama_cpp_reads_it_alike(
    inside: Inside, source: Source, sentencepiece: Tokenizer, tmp_path: Path
) -> None:
    words = ("--to", "gguf", "--verify", "8", "--out")
    folder = shutil.copytree(source("llama"), tmp_path / "model")
    save_tokenizer(sentencepiece, folder)
    document = inside("export", folder, *words, tmp_path / "out")
    assert all(check["met"] for check in document["checks"])

    other = Tokenizer.from_str(sentencepiece.to_str())  # no further blank before a text that begins with one
    other.normalizer = normalizers.Sequence([])
    other.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    save_tokenizer(other, folder)
    error = inside("export", folder, *words, tmp_path / "two", code=2)["error"]["message"]
    assert error.startswith("llama.cpp would read this tokenizer otherwise")
    assert "'  two  blanks" in error


def test_a_damaged_export_fails_its_verification(inside: Inside, source: Source, tmp_path: Path) -> None:
    """One matrix with two of its rows exchanged: the file is well formed, and answers otherwise."""
    out = tmp_path / "out"
    inside("export", source("llama"), "--to", "gguf", "--out", out, "--verify", "4")
    file = out / "model-f32.gguf"
    tensor = next(each for each in gguf.GGUFReader(file, "r+").tensors if each.name == "blk.0.attn_q.weight")
    tensor.data[[0, 5]] = np.array(tensor.data[[5, 0]])
    tensor.data.base.flush() if hasattr(tensor.data.base, "flush") else None
    del tensor
    card = json.loads((out / "llmctl.json").read_text())
    (out / "llmctl.json").write_text(json.dumps(card | {"files": {}}))  # else its hash is noticed first

    checks = {check.what: check for check in compare(find_model(str(source("llama"))), out, 8)}
    assert checks["token_ids"].met
    assert not checks["next_token_logprobs"].met
    assert not checks["greedy_text"].met


def test_files_that_changed_are_noticed(inside: Inside, source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inside("export", source("gpt2"), "--to", "ctranslate2", "--out", out, "--verify", "0")
    data = bytearray((out / "model.bin").read_bytes())
    data[-1] ^= 1
    (out / "model.bin").write_bytes(data)
    error = inside("generate", "--model", out, "--prompt", "x", code=5)["error"]
    assert "model.bin has changed" in error["message"]


def test_nothing_is_overwritten(inside: Inside, source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("export", source("gpt2"), "--to", "gguf", "--out", out, "--verify", "0")
    inside(*words)
    assert "exists" in inside(*words, code=2)["error"]["message"]
    inside(*words, "--force")
    assert (
        "exported"
        not in inside("export", source("gpt2"), "--to", "gguf", "--out", source("gpt2"), code=2)["error"]["hint"]
    )


def test_an_export_is_not_exported_again(inside: Inside, source: Source, tmp_path: Path) -> None:
    inside("export", source("gpt2"), "--to", "ctranslate2", "--out", tmp_path / "one", "--verify", "0")
    error = inside("export", tmp_path / "one", "--to", "gguf", "--out", tmp_path / "two", code=2)["error"]
    assert "is an export already" in error["message"]


def test_own_architectures_are_refused_by_name(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    words = ("--set", "model.layers=1", "--set", "model.hidden=16", "--max-steps", "1")
    inside("train", "--data", sonnets, "--model", "lstm", "--out", tmp_path / "lstm", *words)
    for to in ("gguf", "ctranslate2", "onnx"):
        error = inside("export", tmp_path / "lstm", "--to", to, "--out", tmp_path / "out", code=2)["error"]
        assert error["message"].startswith(f"lstm cannot be exported to {to}, which holds ")
        assert error["hint"] is None
