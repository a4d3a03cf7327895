"""Every architecture in every format: exported and verified, or refused in one line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli import main

Inside = Callable[..., dict[str, Any]]
Source = Callable[[str], Path]

DECODERS = {"gpt2", "llama", "llama-tied", "mistral", "qwen2", "qwen3"}
SOURCES = (*sorted(DECODERS), "bart", "bert", "marian", "t5", "t5-gated")
EXPORTED = {
    "gguf": DECODERS,
    "ctranslate2": {*DECODERS, "bart", "bert", "marian", "t5", "t5-gated"},
    "onnx": {*DECODERS, "bert"},
}
TRACED = ("bert", "llama")
"""Of the exports to ONNX, those that the tests make: each takes some ten seconds."""
CELLS = [
    (to, name) for to in EXPORTED for name in SOURCES if to != "onnx" or name in TRACED or name not in EXPORTED[to]
]


@pytest.mark.parametrize(("to", "name"), CELLS)
def test_a_cell_is_exported_and_verified_or_refused(
    inside: Inside, source: Source, tmp_path: Path, name: str, to: str
) -> None:
    out = tmp_path / "out"
    words = ("export", str(source(name)), "--to", to, "--out", str(out), "--verify", "8")
    if name in EXPORTED[to]:
        document = inside(*words)
        recorded = json.loads((out / "export.json").read_text())
        assert [check["what"] for check in recorded["checks"]] == ["token_ids", "next_token_logprobs", "greedy_text"]
        assert all(check["met"] for check in recorded["checks"])
        assert recorded["format"] == to
        assert document["checks"] == recorded["checks"]
        assert (out / "llmctl.json").is_file()
        assert (out / "tokenizer.json").is_file()
    else:
        code, error = refused(words)
        assert code == 2
        kind = name.removesuffix("-gated")
        assert error.startswith(f"error: {kind} cannot be exported to {to}, which holds ")
        assert len(error.splitlines()) == 1
        assert not out.exists()


def refused(words: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and standard error of a command that is expected to fail."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        code = main.run(list(words))
    return code, err.getvalue()


@pytest.mark.parametrize("quantize", ["f16", "bf16", "q8_0"])
def test_gguf_in_fewer_bits(inside: Inside, source: Source, tmp_path: Path, quantize: str) -> None:
    words = ("--to", "gguf", "--quantize", quantize, "--verify", "8")
    document = inside("export", source("llama"), *words, "--out", tmp_path / "out")
    assert document["quantize"] == quantize
    assert (tmp_path / f"out/model-{quantize}.gguf").stat().st_size == document["size_bytes"]


def test_a_precision_that_a_format_does_not_have(source: Source, tmp_path: Path) -> None:
    words = ("export", str(source("llama")), "--to", "gguf", "--quantize", "int8", "--out", str(tmp_path / "out"))
    assert refused(words) == (2, "error: gguf has no int8; it can be exported as f32, f16, bf16, q8_0\n")


def test_an_encoder_without_labels_cannot_be_asked(source: Source, tmp_path: Path) -> None:
    code, error = refused(("export", str(source("bert-masked")), "--to", "gguf", "--out", str(tmp_path / "out")))
    assert code == 2
    assert "bert cannot be exported to gguf" in error
