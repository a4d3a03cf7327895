"""Model folders that lie: every setting with every wrong value, every file with every damage."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import Strike, edit
from tests.attacks.mutations import DAMAGES, VALUES

Copy = Callable[[str], Path]
ASK = ("--prompt", "Shall I", "--max-new-tokens", "2")
"""Few tokens: what is tested is that it ends."""

DECODER = [
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
    "use_cache",
    "id2label",
    "num_labels",
    "quantization_config",
    "_attn_implementation",
    "is_encoder_decoder",
    "torch_dtype",
    "layer_types",
    "return_dict",
    "sliding_window",
    "output_hidden_states",
    "per_layer_config",
    "text_config",
    "base_model_tp_plan",
]
ENCODER = [
    "hidden_act",
    "id2label",
    "label2id",
    "num_hidden_layers",
    "problem_type",
    "type_vocab_size",
    "layer_norm_eps",
    "vocab_size",
]
PAIRS = ["d_kv", "d_ff", "d_model", "num_layers", "num_decoder_layers", "feed_forward_proj", "decoder_start_token_id"]
QUICK = {"text", "zero", "huge", "null", "nested list"}
"""The other values are tried in the slow part."""


def table(keys: list[str], values: dict[str, Any] | None = None) -> list[Any]:
    return [
        pytest.param(key, value, id=f"{key} {kind}", marks=[] if kind in QUICK else [pytest.mark.slow])
        for key in keys
        for kind, value in (values or VALUES).items()
    ]


@pytest.mark.parametrize(("key", "value"), table(DECODER))
def test_a_decoder_with_a_wrong_setting(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("llama")
    edit(folder / "config.json", key, value)
    strike("generate", "--model", folder, *ASK)


@pytest.mark.parametrize(("key", "value"), table(ENCODER))
def test_an_encoder_with_a_wrong_setting(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("encoder")
    edit(folder / "config.json", key, value)
    strike("generate", "--model", folder, "--task", "classification", "--prompt", "good")


@pytest.mark.parametrize(("key", "value"), table(PAIRS))
def test_an_encoder_decoder_with_a_wrong_setting(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("pairs")
    edit(folder / "config.json", key, value)
    strike("generate", "--model", folder, "--task", "translation", *ASK)


@pytest.mark.parametrize(("key", "value"), table(["eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
                                                  "bad_words_ids", "suppress_tokens", "max_length", "do_sample"]))  # fmt: skip
def test_wrong_settings_of_generation(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("llama")
    edit(folder / "generation_config.json", key, value)
    strike("generate", "--model", folder, *ASK)


@pytest.mark.parametrize(("key", "value"), table(["task", "task_version", "family", "style", "labels", "block_size",
                                                  "clean", "parents", "version", "clean.unicode"]))  # fmt: skip
def test_a_wrong_card(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("carded")
    edit(folder / "llmctl.json", key, value)
    strike("generate", "--model", folder, *ASK)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "llmctl.json",
     "model.safetensors", "chat_template.jinja"],
)  # fmt: skip
def test_a_damaged_file(strike: Strike, copy: Copy, name: str, damage: str) -> None:
    folder = copy("carded")
    DAMAGES[damage](folder / name)
    strike("generate", "--model", folder, *ASK)


def test_the_same_folder_whole_answers(strike: Strike, copy: Copy) -> None:
    for name in ("llama", "carded"):
        strike("generate", "--model", copy(name), *ASK, codes={0})
    strike("generate", "--model", copy("encoder"), "--task", "classification", "--prompt", "good", codes={0})
    strike("generate", "--model", copy("pairs"), "--task", "translation", *ASK, codes={0})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_hidden_layers", 10**9, "config.json:num_hidden_layers"),
        ("num_hidden_layers", 5000, "config.json:num_hidden_layers"),
        ("num_labels", 10**9, "config.json:num_labels"),
        ("hidden_size", "32", "config.json:hidden_size"),
        ("hidden_size", 10**7, "the files hold"),
        ("intermediate_size", 10**10, "the files hold"),
        ("num_attention_heads", 0, "config.json:num_attention_heads"),
        ("num_key_value_heads", 3, "config.json"),
        ("dtype", "float128", "config.json:dtype"),
        ("pad_token_id", 10**9, "config.json"),
        ("id2label", 5, "config.json:id2label"),
        ("return_dict", False, "config.json:return_dict"),
        ("model_type", "newer_than_this", "does not know the model type"),
        ("model_type", "\x1b[2J\x1b]0;pwned\x07x", "config.json:model_type"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantised (gptq)"),
        ("quantization_config", {"quant_method": "awq"}, "quantised (awq)"),
        ("quantization_config", {"load_in_4bit": True}, "config.json:quantization_config"),
        ("_attn_implementation", "a/b", "names code to download"),
        ("text_config", {"num_hidden_layers": 10**9}, "config.json:text_config.num_hidden_layers"),
        ("text_config", 5, "config.json:text_config"),
        ("dtype", 5, "config.json:dtype"),
        ("intermediate_size", -5, "config.json:intermediate_size"),
        ("attribute_map", 5, "config.json:attribute_map"),
        ("base_model_tp_plan", "x", "config.json:base_model_tp_plan"),
    ],
)
def test_file_and_key_are_named(strike: Strike, copy: Copy, key: str, value: Any, said: str) -> None:
    folder = copy("carded")
    edit(folder / "config.json", key, value)
    assert said in strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bad_words_ids", 5),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [["x"]]),
        ("bad_words_ids", [[10**9]]),
        ("bad_words_ids", [[-1]]),
        ("suppress_tokens", {}),
        ("suppress_tokens", [[1]]),
        ("begin_suppress_tokens", [1.5]),
        ("forced_bos_token_id", 10**9),
        ("forced_eos_token_id", -1),
    ],
)
def test_file_and_key_of_generation_are_named(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("llama")
    edit(folder / "generation_config.json", key, value)
    assert f"generation_config.json:{key}" in strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize("key", ["suppress_tokens", "begin_suppress_tokens"])
def test_tokens_that_no_answer_can_have_need_not_be_suppressed(strike: Strike, copy: Copy, key: str) -> None:
    folder = copy("llama")
    edit(folder / "generation_config.json", key, [-1, 10**9, 10**30])
    strike("generate", "--model", folder, *ASK, codes={0})


def header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + size])
    change(entries)
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


FILES = ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
         "llmctl.json", "extra.txt"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("carded")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name}: neither a file nor a folder" in strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize("name", ["config.json", *FILES[1:-1]])
def test_settings_of_gigabytes_are_not_read(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("carded")
    os.truncate(folder / name, 3 << 30)
    assert f"{name}: has 3,221,225,472 bytes" in strike("generate", "--model", folder, *ASK, codes={5})


def test_more_tensors_than_any_model_has(strike: Strike, copy: Copy) -> None:
    folder = copy("llama")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header(folder / "model.safetensors", lambda entries: entries.update({f"w{n}": empty for n in range(100_001)}))
    assert "more than 100,000 tensors" in strike("generate", "--model", folder, *ASK, codes={5})


def test_weights_in_parts_without_their_index(strike: Strike, copy: Copy) -> None:
    folder = copy("llama")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert "model.safetensors.index.json: the index" in strike("generate", "--model", folder, *ASK, codes={5})


def test_an_instruction_of_a_card_that_no_context_holds(strike: Strike, copy: Copy) -> None:
    folder = copy("carded")
    edit(folder / "llmctl.json", "instruction", "x" * 10_000_000)
    assert "instruction" in strike("generate", "--model", folder, *ASK, codes={2})


def each(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(entries: dict[str, Any]) -> None:
        for name, entry in entries.items():
            if name != "__metadata__":
                entry[field] = value

    return change


@pytest.mark.parametrize("dtype", ["I32", "I8", "U32", "BOOL", "F64", "F8_E4M3", "X99", "", 5, None, "\x1b[2J"])
def test_weights_of_another_type(strike: Strike, copy: Copy, dtype: Any) -> None:
    folder = copy("llama")
    header(folder / "model.safetensors", each("dtype", dtype))
    assert "error" in strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize("shape", [[], [0], [-1], [2**62, 2], ["x"], None, [True], [[1]], [10**30]])
def test_weights_of_another_shape(strike: Strike, copy: Copy, shape: Any) -> None:
    folder = copy("llama")
    header(folder / "model.safetensors", each("shape", shape))
    strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize("offsets", [[0, 0], [0, 2**63], [5, 1], [-1, 4], None, ["a", "b"], []])
def test_weights_at_another_place(strike: Strike, copy: Copy, offsets: Any) -> None:
    folder = copy("llama")
    header(folder / "model.safetensors", each("data_offsets", offsets))
    strike("generate", "--model", folder, *ASK, codes={5})


@pytest.mark.parametrize(
    "weights", [{"a": None}, {"a": 5}, {"a": "../b"}, {"a": "/etc/passwd"}, {"a": []}, [], None, "x", 5]
)
def test_a_wrong_index(strike: Strike, copy: Copy, weights: Any) -> None:
    folder = copy("llama")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    strike("generate", "--model", folder, *ASK, codes={5})
