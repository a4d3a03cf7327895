"""Architectures that are the transformers library's own, at our shapes and with the tokenizer's control tokens."""

from __future__ import annotations

from typing import Any

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from llmctl.errors import UsageError
from llmctl.models.spec import Shape, Vocabulary


def gpt2(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> GPT2LMHeadModel:
    """GPT-2 with random weights (Radford et al. 2019)."""
    config = GPT2Config(
        vocab_size=vocabulary.size,
        n_positions=shape.context,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        attn_implementation="sdpa",
        **_control_tokens(vocabulary),
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # the class name alone does not tell transformers which loss, and it warns
    return model


def llama(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> LlamaForCausalLM:
    """Llama with random weights (Touvron et al. 2023), its head tied to the token vectors as in the small Llama 3.2."""
    config = LlamaConfig(
        vocab_size=vocabulary.size,
        max_position_embeddings=shape.context,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.inner,
        attention_dropout=shape.dropout,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        **_control_tokens(vocabulary),
    )
    return LlamaForCausalLM(config)


def bert(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> BertForSequenceClassification:
    """BERT with a classifier over `labels`, random weights (Devlin et al. 2019)."""
    if not labels:
        raise UsageError("bert names labels, and there are none", hint="give it data of the task classification")
    config = BertConfig(
        vocab_size=vocabulary.size,
        max_position_embeddings=shape.context,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        attn_implementation="sdpa",
        **_control_tokens(vocabulary),
    )
    return BertForSequenceClassification(config)


def _control_tokens(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "pad_token_id": vocabulary.pad}
