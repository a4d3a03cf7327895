"""Which architecture can be exported to which format and precision, decided from config.json alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from llmctl.errors import MissingPackage, UsageError

FormatName = Literal["gguf", "ctranslate2", "onnx"]
Quantization = Literal["f32", "f16", "bf16", "q8_0", "int8"]

Reason = str | None
"""Why a config cannot be exported; None: it can."""


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format, with the `model_type`s that it holds and the precisions of its weights, the first one by default."""

    name: FormatName
    program: str
    """What opens the files."""
    model_types: tuple[str, ...]
    quantizations: tuple[Quantization, ...]
    packages: tuple[str, ...]
    """The packages that writing needs, all of them in the extra of the format's name."""
    reason: Callable[[Mapping[str, Any]], Reason]
    """What else in a config.json the program cannot compute."""

    def check_installed(self) -> None:
        """Raise `MissingPackage` with the line that installs what is missing."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingPackage(
                    package, needed_for=f"an export to {self.name}", install=f"pip install 'llmctl[{self.name}]'"
                )


def _gguf(config: Mapping[str, Any]) -> Reason:
    kind = config.get("model_type")
    if kind == "gpt2":
        if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
            return f"llama.cpp computes GPT-2 with gelu_new, not {config['activation_function']}"
        if config.get("scale_attn_by_inverse_layer_idx") or config.get("scale_attn_weights") is False:
            return "llama.cpp scales the attention of GPT-2 by the width of a head only"
        return None
    if config.get("hidden_act", "silu") != "silu":
        return f"llama.cpp computes {kind} with silu, not {config['hidden_act']}"
    if (scaling := _rope(config)) != "default":
        return f"rotary positions are scaled ({scaling}), which this export does not write"
    if config.get("mlp_bias"):
        return "its MLP has biases, which this export does not write"
    return _window(config, "llama.cpp")


def _ctranslate2(config: Mapping[str, Any]) -> Reason:
    kind = config.get("model_type")
    if kind == "bert" and (why := _classifies(config)):
        return why
    if kind == "bert" and config.get("position_embedding_type", "absolute") != "absolute":
        return "CTranslate2 computes BERT with absolute positions"
    if kind == "llama" and (config.get("attention_bias") or config.get("mlp_bias")):
        return "CTranslate2 has no biases in llama"
    if kind in ("llama", "qwen2", "qwen3", "mistral"):
        if config.get("hidden_act", "silu") != "silu":
            return f"CTranslate2 computes {kind} with silu, not {config['hidden_act']}"
        if (scaling := _rope(config)) not in ("default", "linear", "llama3"):
            return f"CTranslate2 does not know the scaling {scaling} of rotary positions"
    if kind == "qwen2" or kind == "qwen3":
        return _window(config, "this export")
    if kind == "gpt2" and (config.get("scale_attn_by_inverse_layer_idx") or config.get("scale_attn_weights") is False):
        return "CTranslate2 scales the attention of GPT-2 by the width of a head only"
    return None


def _onnx(config: Mapping[str, Any]) -> Reason:
    if config.get("model_type") == "bert":
        return _classifies(config)
    return _window(config, "this export")


def _classifies(config: Mapping[str, Any]) -> Reason:
    architectures = " ".join(map(str, config.get("architectures") or ()))
    return (
        None if "ForSequenceClassification" in architectures else "only an encoder with a classification head answers"
    )


def _rope(config: Mapping[str, Any]) -> str:
    """The kind of rotary positions, in the keys of transformers 5 or 4."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return str(found.get("rope_type") or found.get("type") or "default") if isinstance(found, Mapping) else "default"


def _window(config: Mapping[str, Any], program: str) -> Reason:
    """A window of attention that is shorter than the context, unless it is switched off."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if config.get("use_sliding_window") is False or not isinstance(window, int) or not isinstance(context, int):
        return None
    return (
        f"its attention has a window of {window:,} tokens, which {program} does not compute"
        if window < context
        else None
    )


FORMATS: Final[Mapping[str, ExportFormat]] = {
    each.name: each
    for each in (
        ExportFormat(
            "gguf",
            "llama.cpp",
            ("gpt2", "llama", "mistral", "qwen2", "qwen3"),
            ("f32", "f16", "bf16", "q8_0"),
            ("gguf",),
            _gguf,
        ),
        ExportFormat(
            "ctranslate2",
            "CTranslate2",
            ("bart", "bert", "gpt2", "llama", "marian", "mistral", "qwen2", "qwen3", "t5", "whisper"),
            ("f32", "f16", "bf16", "int8"),
            ("ctranslate2",),
            _ctranslate2,
        ),
        ExportFormat(
            "onnx",
            "ONNX Runtime",
            ("bert", "gpt2", "llama", "mistral", "qwen2", "qwen3"),
            ("f32", "int8"),
            ("onnx", "onnxscript", "onnxruntime"),
            _onnx,
        ),
    )
}


def check(config: Mapping[str, Any], name: FormatName, quantize: Quantization | None) -> Quantization:
    """The precision of an export. Raises `UsageError`, in one line, for what cannot be exported."""
    wanted = FORMATS[name]
    kind = str(config.get("model_type", "unknown"))
    shown = kind.removeprefix("llmctl-")  # our own architectures have a prefix in config.json
    others = " or ".join(
        each.name
        for each in FORMATS.values()
        if each.name != name and kind in each.model_types and each.reason(config) is None
    )
    if kind not in wanted.model_types:
        raise UsageError(
            f"{shown} cannot be exported to {name}, which holds {', '.join(wanted.model_types)}; "
            + (f"{shown} can be exported to {others}" if others else f"no format holds {shown}")
        )
    if (why := wanted.reason(config)) is not None:
        raise UsageError(
            f"this {shown} cannot be exported to {name}: {why}" + (f"; export it to {others}" if others else "")
        )
    if quantize is not None and quantize not in wanted.quantizations:
        raise UsageError(f"{name} has no {quantize}; it can be exported as {', '.join(wanted.quantizations)}")
    return quantize or wanted.quantizations[0]
