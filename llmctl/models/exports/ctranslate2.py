"""Writes a model in the format of CTranslate2, by its own loaders, corrected where they are wrong for models made here.

The loaders assume the checkpoints of the hub: Marian's cuts off the last row of the embeddings, believing it to be the
padding, and starts from a zero vector; BART's reads keys of old configs; GPT-2's and T5's leave the epsilon of the norms at
its default. The rest of each loader is CTranslate2's (converters/transformers.py, 4.8.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from ctranslate2.converters import transformers as stock
from safetensors.torch import save_file
from transformers import PreTrainedModel

from llmctl.models.exports.table import Quantization
from llmctl.store.exports import CT2_HEAD

QUANTIZATIONS: Final[Mapping[str, str]] = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "int8": "int8_float32",
}


class OwnBart(stock.BartLoader):  # type: ignore[misc]
    """BART as transformers computes it: norms after each block, and one on the embeddings."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before, model.config.normalize_embedding = False, True
        return super().get_model_spec(model)


class WholeMarian(stock.MarianMTLoader):  # type: ignore[misc]
    """Marian with every row of its vocabulary, decoding from the embedding of its start token."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before, model.config.normalize_embedding = False, False
        return stock.BartLoader.get_model_spec(self, model)

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        found: list[str] = stock.BartLoader.get_vocabulary(self, model, tokenizer)
        return found

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        stock.BartLoader.set_config(self, config, model, tokenizer)

    def set_decoder(self, spec: Any, decoder: Any) -> None:
        stock.BartLoader.set_decoder(self, spec, decoder)


class ClassifyingBert(stock.BertLoader):  # type: ignore[misc]
    """The body of a BERT with a classification head."""

    def get_model_spec(self, model: Any) -> Any:
        config = model.config
        body = getattr(model, model.base_model_prefix)
        if not hasattr(config, "position_embedding_type"):
            config.position_embedding_type = "absolute"  # transformers 5 has no other
        return super().get_model_spec(body)


class OwnT5(stock.T5Loader):  # type: ignore[misc]
    """T5 with the scale of its output by the setting that transformers 5 has for it, apart from tied embeddings."""

    def get_model_spec(self, model: Any) -> Any:
        spec = super().get_model_spec(model)
        spec.decoder.scale_outputs = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        return spec


class NamedWhisper(stock.WhisperLoader):  # type: ignore[misc]
    """Whisper whose generation config may suppress nothing."""

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        super().set_config(config, model, tokenizer)
        config.suppress_ids = config.suppress_ids or []
        config.suppress_ids_begin = config.suppress_ids_begin or []


LOADERS: Final[Mapping[str, Any]] = {
    "bart": OwnBart,
    "bert": ClassifyingBert,
    "gpt2": stock.GPT2Loader,
    "llama": stock.LlamaLoader,
    "marian": WholeMarian,
    "mistral": stock.MistralLoader,
    "qwen2": stock.Qwen2Loader,
    "qwen3": stock.Qwen3Loader,
    "t5": OwnT5,
    "whisper": NamedWhisper,
}
"""By `model_type`."""


def write(model: PreTrainedModel, tokenizer: Any, folder: Path, *, quantize: Quantization) -> list[Path]:
    """Write `model.bin`, `config.json` and the vocabulary into `folder`; returns the files that hold weights.

    The weights of `model` are given away: some loaders take it apart.
    """
    kind = model.config.model_type
    head = {"weight": model.classifier.weight, "bias": model.classifier.bias} if kind == "bert" else {}
    vocabulary = _Names(tokenizer, model.config.vocab_size)
    with torch.no_grad():
        spec = LOADERS[kind]()(model, vocabulary)
        epsilon = getattr(model.config, "layer_norm_epsilon", None)
        if kind in ("gpt2", "t5") and epsilon is not None:
            spec.config.layer_norm_epsilon = epsilon
        spec.validate()
        spec.optimize(quantization=QUANTIZATIONS[quantize])
        spec.save(str(folder))
        files = [folder / "model.bin"]
        if head:
            save_file({name: each.detach().float().contiguous() for name, each in head.items()}, folder / CT2_HEAD)
            files.append(folder / CT2_HEAD)
    return files


class _Names:
    """A tokenizer as the loaders see it: as many tokens as the model has, each with a name of its own."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._names = names_of(tokenizer, size)
        for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
            setattr(self, role, getattr(tokenizer, role) or getattr(tokenizer, "eos_token", None) or self._names[0])

    def get_vocab(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def convert_ids_to_tokens(self, number: int) -> str:
        return self._names[number]


def names_of(tokenizer: Any, size: int) -> list[str]:
    """The name of each id of a model with `size` entries. An id that the tokenizer does not have gets a name of its own."""
    known = {number: token for token, number in tokenizer.get_vocab().items()}
    return [known.get(number, f"<|unused-{number}|>") for number in range(size)]
