"""The family and pre-training objective of a model, from its config.json. Reads no weights, imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from llmctl.errors import UsageError
from llmctl.types import Denoising, Family, Hearing

_TYPES: Final[Mapping[Family, str]] = {
    "encoder-decoder": (
        "bart bigbird_pegasus blenderbot blenderbot-small fsmt led llmctl-lstm-seq2seq longt5 m2m_100 marian mbart mt5 "
        "mvp pegasus pegasus_x plbart prophetnet switch_transformers t5 umt5"
    ),
    "decoder": (
        "bloom codegen cohere falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite llama "
        "llmctl-attention llmctl-lstm llmctl-rnn mamba mamba2 mistral mixtral mpt olmo olmo2 openai-gpt opt persimmon "
        "phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe rwkv smollm3 stablelm starcoder2 xglm"
    ),
    "encoder": (
        "albert bert big_bird camembert convbert deberta deberta-v2 distilbert electra ernie flaubert funnel ibert "
        "layoutlm llmctl-lstm-classifier longformer mobilebert modernbert mpnet nystromformer rembert roberta "
        "roberta-prelayernorm roformer squeezebert xlm xlm-roberta xlm-roberta-xl"
    ),
    "ctc": "llmctl-ctc hubert wav2vec2 wav2vec2-conformer wavlm",
    "speech-seq2seq": "whisper",
}
"""The `model_type`s of text models, for configs whose architecture does not reveal the family."""

_SPAN_CORRUPTION_TYPES: Final = frozenset(["t5", "mt5", "umt5", "longt5", "switch_transformers"])
"""Encoder-decoders pre-trained to predict only the masked spans instead of the full text."""

CTC_STRIDE: Final = 2
"""Frames of 10 ms in an output frame of `ctc.py`."""
FRAME: Final = 160
"""Samples of 10 ms."""

_BY_ENDING: Final[tuple[tuple[str, Family], ...]] = (
    ("ForCausalLM", "decoder"),
    ("LMHeadModel", "decoder"),
    ("ForMaskedLM", "encoder"),
    ("ForCTC", "ctc"),
)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of the model that a config.json describes.

    Checks the architecture's class first, then the model type. Raises `UsageError` for a model that is not a known text
    decoder, encoder-decoder or encoder, and no speech model.
    """
    architectures = config.get("architectures") or []
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    model_type = str(config.get("model_type", ""))
    if architecture.endswith("ForSequenceClassification"):
        return "encoder"  # whatever its body, it classifies a complete text
    if model_type in _TYPES["speech-seq2seq"].split():
        return "speech-seq2seq"
    if config.get("is_encoder_decoder") is True or model_type in _TYPES["encoder-decoder"].split():
        return "encoder-decoder"
    for ending, family in _BY_ENDING:
        if architecture.endswith(ending):
            return family
    for family, types in _TYPES.items():
        if model_type in types.split():
            return family
    raise UsageError(
        f"unsupported model type {model_type or 'unknown'!r}"
        + (f" ({architecture})" if architecture else "")
        + ": not a known text decoder, encoder-decoder or encoder, and no speech model",
        where="config.json:model_type",
        hint="see: llmctl list models",
    )


def context_of(config: Mapping[str, Any]) -> int | None:
    """Longest sequence in tokens that the model of a config.json reads; None if it has no limit: a recurrent model, or one
    with relative positions such as T5, whatever its `n_positions` says."""
    if "relative_attention_num_buckets" in config:
        return None
    if isinstance(config.get("max_target_positions"), int):
        return int(config["max_target_positions"])  # of Whisper's transcript; its recordings have 30 s
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions"))
    return next((each for each in found if isinstance(each, int) and not isinstance(each, bool)), None)


def hearing_for(family: Family) -> Hearing:
    """What our own speech models with random weights read."""
    return hearing_of({"model_type": "whisper" if family == "speech-seq2seq" else "llmctl-ctc"})


def hearing_of(config: Mapping[str, Any]) -> Hearing:
    """What the speech model of a config.json reads."""
    bands = config.get("num_mel_bins")
    if config.get("model_type") in _TYPES["speech-seq2seq"].split():
        # Two convolutions halve the frames of 10 ms to the positions of the encoder.
        return Hearing(int(bands or 80), max_seconds=int(config.get("max_source_positions") or 1500) / 50, padded=True)
    if config.get("model_type") == "llmctl-ctc":
        return Hearing(int(bands or 80), stride=CTC_STRIDE)
    samples = math.prod(each for each in config.get("conv_stride") or (5, 2, 2, 2, 2, 2, 2))
    return Hearing(0, stride=max(1, round(samples / FRAME)))


def denoising_of(family: Family, model_type: str, noise_density: float | None = None) -> Denoising | None:
    """The denoising objective of a model on plain text; None for a decoder, which predicts the next token.

    `noise_density`: fraction of tokens masked or corrupted; default: as published.
    """
    if family == "decoder":
        return None
    if family == "encoder":
        return Denoising("masked", noise_density or 0.15)
    return (
        Denoising("spans", noise_density or 0.15)
        if model_type in _SPAN_CORRUPTION_TYPES
        else Denoising("infilling", noise_density or 0.3)
    )


def fills_masks(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes an encoder with a masked-language-modelling head, which has no labels."""
    return any(str(each).endswith("ForMaskedLM") for each in config.get("architectures") or ())
