"""Tiny models with random weights and a byte-level tokenizer, as transformers and tokenizers make them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CONTEXT = 64
ENGLISH = "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times. "
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
LABELS = ("bad", "good", "middling")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE: a Chinese character takes one to three tokens."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([ENGLISH, CHINESE], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eos|>"
    )


@pytest.fixture(scope="session")
def models(tokenizer: Any) -> dict[str, Any]:
    """By architecture. Weights are spread wide, so that greedy answers differ from prompt to prompt."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    size = len(tokenizer)
    torch.manual_seed(0)
    made = {
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, **ids)
        ),
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                max_position_embeddings=CONTEXT,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                **ids,
            )
        ),
        "t5": T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=0,
                **ids,
            )
        ),
        "bart": BartForConditionalGeneration(
            BartConfig(
                vocab_size=size,
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=CONTEXT,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
                **ids,
            )
        ),
        "bert": BertForSequenceClassification(
            BertConfig(
                vocab_size=size,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=CONTEXT,
                num_labels=len(LABELS),
                pad_token_id=0,
            )
        ),
    }
    for model in made.values():
        model.eval()
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "norm" not in name and "ln_" not in name and weights.dim() > 1:
                    weights.normal_(0.0, 0.2)
    return made
