"""Tiny models of every architecture that can be exported, as folders; weights are random and spread wide, so that greedy
answers differ from prompt to prompt and an error in any tensor shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

CONTROL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>", "<|sep|>"]
TEXT = (
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times. ",
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. ",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
)
SIZE = 400
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
ROTARY = {**SMALL, **IDS, "vocab_size": SIZE, "max_position_embeddings": 128, "num_key_value_heads": 2}
SEQ2SEQ = {
    **IDS,
    "vocab_size": SIZE,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "forced_eos_token_id": None,
}
BERT = {**SMALL, "vocab_size": SIZE, "max_position_embeddings": 128, "pad_token_id": 0}
T5 = {**IDS, "vocab_size": SIZE, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}

MAKE: dict[str, Callable[[], PreTrainedModel]] = {
    "bart": lambda: BartForConditionalGeneration(BartConfig(decoder_start_token_id=2, **SEQ2SEQ)),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1}, **BERT)
    ),
    "bert-masked": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=SIZE, n_positions=128, n_embd=32, n_inner=48, n_layer=2, n_head=4, **IDS)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**ROTARY, rope_theta=5000.0, rms_norm_eps=1e-5)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**ROTARY, tie_word_embeddings=True)),
    "marian": lambda: MarianMTModel(MarianConfig(decoder_start_token_id=0, **SEQ2SEQ)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**ROTARY, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**ROTARY)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**ROTARY, head_dim=16)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **T5)),
    "t5-gated": lambda: T5ForConditionalGeneration(
        T5Config(decoder_start_token_id=0, **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
}


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """Byte-level BPE with the pre-tokenizer of GPT-2; a Chinese character takes one to three tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return backend


@pytest.fixture(scope="session")
def sentencepiece() -> Tokenizer:
    """As of Llama 2: BPE over characters, a blank before each text, and bytes for characters that have no piece."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=136, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    names = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [tuple(each) for each in learned["merges"]]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<|unk|>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ends = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(ends)
    backend.add_special_tokens(CONTROL)
    return backend


@pytest.fixture(scope="session")
def source(byte_level: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the model of a name in `MAKE`, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = _write(name, byte_level, tmp_path_factory.mktemp("source") / name)
        return made[name]

    return folder


def _write(name: str, backend: Tokenizer, folder: Path) -> Path:
    torch.manual_seed(0)
    model = MAKE[name]().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key or "ln_" in key:
                weight.uniform_(0.5, 1.5) if key.endswith("weight") else weight.normal_(0.0, 0.1)
            else:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    save_tokenizer(backend, folder)
    return folder


def save_tokenizer(backend: Tokenizer, folder: Path, **more: Any) -> None:
    roles = {f"{name}_token": f"<|{name}|>" for name in ("pad", "bos", "eos", "unk", "sep")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles, **more).save_pretrained(folder)
