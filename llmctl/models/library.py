"""Architectures from the transformers library, built with our shapes and the tokenizer's control tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
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
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

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
    model.loss_type = "ForCausalLM"  # transformers cannot infer the loss from the class name and would warn
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


def bert(
    shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()
) -> BertForSequenceClassification | BertForMaskedLM:
    """BERT with random weights (Devlin et al. 2019) and learned positions initialised as sinusoids: a classifier over
    `labels` or, without labels, a masked language model."""
    assert shape.hidden is not None
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    config = BertConfig(
        vocab_size=vocabulary.size,
        max_position_embeddings=shape.context,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        # The published value at the published width; at other widths it gives layer outputs of the same variance.
        initializer_range=0.02 * math.sqrt(768 / shape.hidden),
        attn_implementation="sdpa",
        **(named if labels else {}),
        **_control_tokens(vocabulary),
    )
    model = BertForSequenceClassification(config) if labels else BertForMaskedLM(config)
    _init_sinusoidal(model.bert.embeddings.position_embeddings.weight.data, config.initializer_range)
    return model


def t5(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> T5ForConditionalGeneration:
    """T5 with random weights (Raffel et al. 2020): relative positions, so no length limit; answers start from <pad>."""
    assert shape.hidden is not None
    assert shape.heads is not None
    config = T5Config(
        vocab_size=vocabulary.size,
        d_model=shape.hidden,
        d_kv=shape.hidden // shape.heads,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_heads=shape.heads,
        dropout_rate=shape.dropout,
        decoder_start_token_id=vocabulary.pad,
        attn_implementation="sdpa",
        **_control_tokens(vocabulary),
    )
    return T5ForConditionalGeneration(config)


def marian(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> MarianMTModel:
    """Marian with random weights and the settings of the opus-mt models: sinusoidal positions, swish, token vectors
    times √H, one vocabulary for both languages (Junczys-Dowmunt et al. 2018; Tiedemann and Thottingal 2020); answers
    start from <pad>."""
    config = MarianConfig(
        activation_function="swish",
        scale_embedding=True,
        decoder_start_token_id=vocabulary.pad,
        forced_eos_token_id=None,
        **_both_sides(shape, vocabulary),
    )
    model = MarianMTModel(config)
    _scale_residual_outputs(model)
    return model


def bart(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> BartForConditionalGeneration:
    """BART with random weights (Lewis et al. 2020); answers start from <eos>."""
    config = BartConfig(
        activation_function="gelu",
        decoder_start_token_id=vocabulary.eos,
        forced_eos_token_id=None,
        **_both_sides(shape, vocabulary),
    )
    model = BartForConditionalGeneration(config)
    _scale_residual_outputs(model)
    return model


def whisper(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> WhisperForConditionalGeneration:
    """Whisper with random weights (Radford et al. 2022): recordings of 30 s; transcripts start from <bos>."""
    assert shape.hidden is not None
    config = WhisperConfig(
        vocab_size=vocabulary.size,
        d_model=shape.hidden,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.inner,
        decoder_ffn_dim=shape.inner,
        max_target_positions=shape.context,
        dropout=shape.dropout,
        init_std=shape.hidden**-0.5,
        decoder_start_token_id=vocabulary.bos,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        attn_implementation="sdpa",
        **_control_tokens(vocabulary),
    )
    model = WhisperForConditionalGeneration(config)
    _scale_residual_outputs(model)
    return model


def _both_sides(shape: Shape, vocabulary: Vocabulary) -> dict[str, Any]:
    """The config fields of an encoder and a decoder with the same shape.

    Random weights have variance 1/H: that of Glorot and Bengio (2010) for a square matrix, and of the initial token
    vectors in Vaswani et al. (2017). transformers' 0.02 suits H of about 1024 and trains slowly at smaller widths.
    """
    assert shape.hidden is not None
    return {
        "init_std": shape.hidden**-0.5,
        "vocab_size": vocabulary.size,
        "max_position_embeddings": shape.context,
        "d_model": shape.hidden,
        "encoder_layers": shape.layers,
        "decoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.inner,
        "decoder_ffn_dim": shape.inner,
        "dropout": shape.dropout,
        "attn_implementation": "sdpa",
        **_control_tokens(vocabulary),
    }


def _scale_residual_outputs(model: PreTrainedModel) -> None:
    """Divide the output matrices of attention and MLP by √(2 · layers), like GPT-2 (Radford et al. 2019, section 2.3).

    The norm after each residual addition then passes most of its input through, so that the source reaches the decoder
    from the first step (marian:tiny on 620,000 tokens of English and German: validation loss 5.68, without this 6.24).
    """
    for name, weight in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):
            weight.data.mul_((2 * model.config.encoder_layers) ** -0.5)


def _init_sinusoidal(positions: Tensor, rms: float) -> None:
    """Initialise position vectors (T, H) as sinusoids (Vaswani et al. 2017, section 3.5) of root mean square `rms`.

    They remain trainable. A relative offset is then the same rotation at every position instead of having to be trained
    for each, so bert:tiny sooner leaves the plateau where it predicts a masked word from an unordered context
    (speeches in blocks of 32, 40 % masked: validation loss 4.55 after 741 steps; from random positions 5.42 after 665).
    Classifiers train equally well from either.
    """
    count, width = positions.shape
    angle = torch.arange(count)[:, None] * 10_000 ** (-torch.arange(0, width, 2) / width)  # (T, H/2)
    positions[:, 0::2] = math.sqrt(2) * rms * angle.sin()
    positions[:, 1::2] = math.sqrt(2) * rms * angle.cos()[:, : width // 2]


def _control_tokens(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "pad_token_id": vocabulary.pad}
