"""What a model folder's config.json says the model can express. Reads no weights and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctl.errors import UsageError
from llmctl.types import Denoising, Family

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
}
"""The `model_type`s of text models, for configs whose architecture does not say it."""

_SPAN_CORRUPTION_TYPES: Final = frozenset(["t5", "mt5", "umt5", "longt5", "switch_transformers"])
"""Encoder-decoders that learned from plain text to say the spans cut out of it, not the whole text."""

_BY_ENDING: Final[tuple[tuple[str, Family], ...]] = (
    ("ForCausalLM", "decoder"),
    ("LMHeadModel", "decoder"),
    ("ForMaskedLM", "encoder"),
)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of the model that a config.json describes.

    The architecture's class is asked first, then its type. Raises `UsageError` for one that is neither decoder,
    encoder-decoder nor encoder of text.
    """
    architectures = config.get("architectures") or []
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    model_type = str(config.get("model_type", ""))
    if architecture.endswith("ForSequenceClassification"):
        return "encoder"  # whatever it is made of, it reads a text whole
    if config.get("is_encoder_decoder") is True or model_type in _TYPES["encoder-decoder"].split():
        return "encoder-decoder"
    for ending, family in _BY_ENDING:
        if architecture.endswith(ending):
            return family
    for family, types in _TYPES.items():
        if model_type in types.split():
            return family
    raise UsageError(
        f"a model of type {model_type or 'unknown'!r}"
        + (f" ({architecture})" if architecture else "")
        + " is no decoder, encoder-decoder or encoder of text that llmctl knows",
        where="config.json:model_type",
        hint="see: llmctl list models",
    )


def denoising_of(family: Family, model_type: str, noise_density: float | None = None) -> Denoising | None:
    """How a model learns from plain text of which `noise_density`, or as much as was published, is taken away; None for a decoder,
    which foretells it."""
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
    """Whether a config.json is that of an encoder with a head over the vocabulary, which names no labels."""
    return any(str(each).endswith("ForMaskedLM") for each in config.get("architectures") or ())
