"""GGUF files as given weights: asked, trained on, converted; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Inside = Callable[..., dict[str, Any]]

LAYERS, HEADS, HIDDEN, INNER = 2, 2, 32, 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conversions are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/llmctl/gguf"


@pytest.fixture(scope="module")
def run(inside: Inside, sonnets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama to be written as GGUF."""
    out = tmp_path_factory.mktemp("gguf") / "llama"
    shape = {"layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "inner": INNER}
    sets = [f"--set=model.{name}={value}" for name, value in shape.items()]
    inside("train", "--data", sonnets, "--model", "llama", "--out", out, *sets, "--max-steps", "3", "--seed", "1")
    return out


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    """The llama as llama.cpp's own converter would write it, in float32."""
    path = run.parent / "llama.gguf"
    write(path, run / "model", gguf.GGMLQuantizationType.F32)
    return path


def write(path: Path, folder: Path, kind: gguf.GGMLQuantizationType, architecture: str = "llama") -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(config["vocab_size"])
    _write_tokenizer(writer, folder)
    for name, weight in load_file(folder / "model.safetensors").items():
        _write_tensor(writer, name, weight.numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    control = set(tokenizer.all_special_tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if each in control else gguf.TokenType.NORMAL for each in words])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


def _write_tensor(
    writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32], kind: gguf.GGMLQuantizationType
) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        # llama.cpp turns pairs (2i, 2i + 1) where transformers turns (i, i + half).
        weight = weight.reshape(HEADS, 2, HIDDEN // HEADS // 2, HIDDEN).swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
    stem = names.get_name(name, try_suffixes=(".weight",))
    if weight.ndim == 2:
        writer.add_tensor(f"{stem}", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    else:
        writer.add_tensor(f"{stem}", weight)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder).eval()(torch.arange(4, 20)[None]).logits
    return found


ASK = ("--prompt", "Shall I compare thee", "--max-new-tokens", "8", "--task", "lm")


def test_a_file_becomes_the_model_that_it_was_written_from(
    inside: Inside, run: Path, file: Path, tmp_path: Path
) -> None:
    inside("merge", file, "--out", tmp_path / "plain")
    torch.testing.assert_close(logits(tmp_path / "plain"), logits(run / "model"), rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "plain/config.json").read_text())
    assert "quantization_config" not in config
    text = "Shall I compare thee to a summer's day?"
    one, other = (
        AutoTokenizer.from_pretrained(each)(text)["input_ids"] for each in (tmp_path / "plain", run / "model")
    )
    assert one == other


def test_quantised_blocks_become_the_numbers_that_they_stand_for(inside: Inside, run: Path, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    write(tmp_path / "small.gguf", run / "model", kind)
    inside("merge", tmp_path / "small.gguf", "--out", tmp_path / "plain")
    name = "model.layers.1.mlp.down_proj.weight"
    blocks = gguf.quants.quantize(load_file(run / "model/model.safetensors")[name].numpy(), kind)
    wanted = gguf.quants.dequantize(blocks, kind)
    found = load_file(tmp_path / "plain/model.safetensors")[name]
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_a_file_or_its_folder_is_asked_as_a_model_and_converted_once(
    llmctl: Any, inside: Inside, run: Path, file: Path, cache: Path, tmp_path: Path
) -> None:
    wanted = inside("generate", "--model", run, *ASK)["completions"][0]["text"]
    first = llmctl("generate", "--model", file, *ASK, "--json")
    assert json.loads(first.stdout)["completions"][0]["text"] == wanted
    [kept] = cache.iterdir()
    assert f"converting {file} to safetensors in float32, kept in {kept}" in first.stderr
    assert "it/s" not in first.stderr
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.gguf").write_bytes(file.read_bytes())
    assert inside("generate", "--model", tmp_path / "folder", *ASK)["completions"][0]["text"] == wanted
    assert list(cache.iterdir()) == [kept]


def test_training_starts_from_a_file_and_an_adapter_finds_it_again(
    inside: Inside, sonnets: Path, file: Path, cache: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", sonnets, "--model", file, "--max-steps", "2", "--set", "precision=fp32")
    whole = inside(*words, "--out", tmp_path / "whole")
    assert whole["steps"] == 2
    inside(*words, "--out", tmp_path / "lora", "--adapter", "lora")
    before = inside("generate", "--model", tmp_path / "lora", *ASK)["completions"][0]["text"]
    [kept] = cache.iterdir()
    (kept / "config.json").unlink()
    kept.rename(tmp_path / "lost")  # a cache may go: it is made again, the same
    assert inside("generate", "--model", tmp_path / "lora", *ASK)["completions"][0]["text"] == before


@pytest.mark.parametrize("end", [4, 40, 2000, -100])
def test_a_file_that_is_cut_off_is_refused(end: int, inside: Inside, file: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:end])
    error = inside("generate", "--model", tmp_path / "cut.gguf", *ASK, code=5)["error"]
    assert "cut.gguf" in error["message"]
    assert not cache.exists() or not list(cache.iterdir())


def test_what_is_no_gguf_file_is_refused(inside: Inside, file: Path, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"\x80\x04" + bytes(100))
    assert "not a GGUF file" in inside("generate", "--model", tmp_path / "no.gguf", *ASK, code=5)["error"]["message"]
    two = tmp_path / "two"
    two.mkdir()
    for name in ("one.gguf", "other.gguf"):
        (two / name).write_bytes(file.read_bytes())
    assert "one.gguf, other.gguf" in inside("generate", "--model", two, *ASK, code=2)["error"]["hint"]


def test_an_architecture_that_cannot_be_read_is_named(inside: Inside, run: Path, tmp_path: Path) -> None:
    write(tmp_path / "odd.gguf", run / "model", gguf.GGMLQuantizationType.F32, architecture="oddity")
    error = inside("generate", "--model", tmp_path / "odd.gguf", *ASK, code=2)["error"]
    assert "'oddity'" in error["message"]


def test_without_gguf_the_line_that_installs_it_is_told(file: Path) -> None:
    words = ["generate", "--model", str(file), *ASK]
    program = f"import sys; sys.modules['gguf'] = None; from llmctl.cli.main import run; sys.exit(run({words!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "pip install 'llmctl[gguf]'" in done.stderr


def test_the_tokenizer_of_a_file_prepares_text(
    inside: Inside, run: Path, file: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Shall I compare thee to a summer's day?\nThou art more lovely.\n" * 40)
    words = ("preprocess", tmp_path / "a.txt", "--task", "lm", "--set", "splits.validation=0", "--set", "splits.test=0")
    for name, tokenizer in (("one", file), ("other", run)):
        inside(*words, "--tokenizer", tokenizer, "--out", tmp_path / name)
    ids = [(tmp_path / name / "tokens/train.values.npy").read_bytes() for name in ("one", "other")]
    assert ids[0] == ids[1]
