"""Architectures of transformers that users bring, tiny and random: two steps, four tokens and a score each.

Nothing in llmctl is written for one of them; what is common to all is tested.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

Inside = Callable[..., dict[str, Any]]

MODERN: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = MODERN | {"num_key_value_heads": 2}
HEADS_OF_8 = GROUPED | {"head_dim": 8}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
MIXED = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
MANY = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATES = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}

DECODERS: dict[str, dict[str, Any]] = {
    # one head of keys for each head of queries
    "gpt2": GPT,
    "openai-gpt": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "codegen": GPT | {"rotary_dim": 4},
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 64,
    },
    "gpt_neox": MODERN,
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "opt": {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64},
    "falcon": MODERN,
    "phi": MODERN,
    "persimmon": MODERN,
    "xglm": {"d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64},
    "biogpt": MODERN,
    # grouped heads
    "llama": GROUPED,
    "mistral": HEADS_OF_8,
    "qwen2": GROUPED,
    "qwen3": HEADS_OF_8,
    "gemma": HEADS_OF_8,
    "gemma2": HEADS_OF_8 | {"query_pre_attn_scalar": 8},
    "gemma3_text": HEADS_OF_8 | {"query_pre_attn_scalar": 8},
    "phi3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "cohere": GROUPED,
    "granite": GROUPED,
    "smollm3": GROUPED,
    "glm": HEADS_OF_8,
    # mixtures of experts
    "mixtral": MIXED,
    "qwen2_moe": MANY | {"shared_expert_intermediate_size": 16},
    "qwen3_moe": MANY | {"head_dim": 8},
    "olmoe": MANY,
    "granitemoe": MIXED,
    # state spaces and hybrids
    "mamba": STATES,
    "mamba2": STATES | {"num_heads": 4, "head_dim": 8, "n_groups": 1},
    "falcon_mamba": STATES,
    "rwkv": {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2, "context_length": 64},
    "recurrent_gemma": HEADS_OF_8 | {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 32},
    "bamba": GROUPED | {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1,
                        "attn_layer_indices": [1]},
    "jamba": GROUPED | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
                        "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4},
    "falcon_h1": GROUPED | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4,
                            "mamba_n_groups": 1, "head_dim": 8},
}  # fmt: skip
WIDE = {"d_model": 16, "max_position_embeddings": 64} | {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in {"layers": 1, "attention_heads": 4, "ffn_dim": 32}.items()
}
SPANS = {"d_model": 16, "d_ff": 32, "d_kv": 4, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "bart": WIDE,
    "mbart": WIDE,
    "marian": WIDE | {"decoder_start_token_id": 0},
    "pegasus": WIDE,
    "blenderbot-small": WIDE,
    "m2m_100": WIDE,
    "t5": SPANS,
    "mt5": SPANS,
    "umt5": SPANS,
    "switch_transformers": SPANS
    | {"num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 64},
}
BERT = MODERN
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "albert": BERT | {"embedding_size": 8},
    "electra": BERT | {"embedding_size": 8},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    "deberta": BERT,
    "deberta-v2": BERT,
    "mpnet": BERT,
    "modernbert": BERT | {"global_attn_every_n_layers": 2},
    "camembert": BERT,
    "ernie": BERT,
}
HEAVY = {"recurrent_gemma", "bamba", "jamba", "falcon_h1", "switch_transformers", "mamba2", "falcon_mamba", "gpt_neo"}


def cases(table: dict[str, dict[str, Any]]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in table]


def saved(kind: str, shape: dict[str, Any], auto: Any, data: Path, folder: Path) -> Path:
    """A random model of an architecture, with the tokenizer of the prepared data."""
    import json

    size = len(json.loads((data / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": size}
    auto.from_config(CONFIG_MAPPING[kind](**ids | shape)).save_pretrained(folder)
    for each in (data / "tokenizer").iterdir():
        shutil.copy(each, folder)
    return folder


def trained(inside: Inside, model: Path, data: Path, out: Path) -> Path:
    words = ("train", "--data", data, "--model", model, "--max-steps", "2", "--batch-size", "2", "--precision", "fp32")
    done = inside(*words, "--set", "max_length=48", "--out", out)
    assert done["steps"] == 2
    assert 0 < done["train_loss"] < 20
    return out


@pytest.mark.parametrize("kind", cases(DECODERS))
def test_a_decoder_is_trained_answers_and_is_scored(inside: Inside, sonnets: Path, kind: str, tmp_path: Path) -> None:
    model = saved(kind, DECODERS[kind], AutoModelForCausalLM, sonnets, tmp_path / "model")
    run = trained(inside, model, sonnets, tmp_path / "run")
    [answer] = inside("generate", "--model", run, "--prompt", "Shall I", "--max-new-tokens", "4")["completions"]
    assert 0 <= answer["tokens"] <= 4
    words = ("eval", "--model", run, "--data", sonnets, "--metric", "perplexity", "--limit", "2")
    [score] = inside(*words, "--out", tmp_path / "scores")["scores"]
    assert score["value"] > 1


@pytest.mark.parametrize("kind", cases(ENCODER_DECODERS))
def test_an_encoder_decoder_is_trained_answers_and_is_scored(
    inside: Inside, dates: Path, kind: str, tmp_path: Path
) -> None:
    model = saved(
        kind, {"decoder_start_token_id": 0} | ENCODER_DECODERS[kind], AutoModelForSeq2SeqLM, dates, tmp_path / "model"
    )
    run = trained(inside, model, dates, tmp_path / "run")
    [answer] = inside("generate", "--model", run, "--prompt", "May 4", "--max-new-tokens", "4")["completions"]
    assert 0 <= answer["tokens"] <= 4
    words = ("eval", "--model", run, "--data", dates, "--metric", "perplexity", "--limit", "2")
    [score] = inside(*words, "--out", tmp_path / "scores")["scores"]
    assert score["value"] > 1


@pytest.mark.parametrize("kind", cases(ENCODERS))
def test_an_encoder_is_trained_answers_and_is_scored(inside: Inside, reviews: Path, kind: str, tmp_path: Path) -> None:
    """From a masked language model, whose head is dropped for the new one."""
    model = saved(kind, ENCODERS[kind], AutoModelForMaskedLM, reviews, tmp_path / "model")
    run = trained(inside, model, reviews, tmp_path / "run")
    [answer] = inside("generate", "--model", run, "--prompt", "a good film")["completions"]
    assert answer["text"]
    words = ("eval", "--model", run, "--data", reviews, "--metric", "accuracy", "--limit", "4")
    [score] = inside(*words, "--out", tmp_path / "scores")["scores"]
    assert 0 <= score["value"] <= 1


def discriminator(config: Any) -> Any:
    from transformers import ElectraForPreTraining

    return ElectraForPreTraining(config)


def published_bert(config: Any) -> Any:
    from transformers import BertForPreTraining

    return BertForPreTraining(config)


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("electra", discriminator),
        ("bert", published_bert),
        ("roberta", AutoModelForSequenceClassification.from_config),
        ("modernbert", AutoModelForMaskedLM.from_config),
    ],
)
def test_a_head_of_another_purpose_gives_way_to_the_new_one(
    inside: Inside, reviews: Path, kind: str, build: Any, tmp_path: Path
) -> None:
    class Builder:
        from_config = staticmethod(build)

    model = saved(kind, ENCODERS[kind] | {"num_labels": 2}, Builder, reviews, tmp_path / "model")
    assert trained(inside, model, reviews, tmp_path / "run").is_dir()
