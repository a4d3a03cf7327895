"""Writes a model as a GGUF file for llama.cpp, with the names, shapes and metadata of llama.cpp's own converter.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensor names come from the package gguf, which
llama.cpp publishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from transformers import PreTrainedModel

from llmctl.models.exports.gguf_tokenizer import Vocabulary
from llmctl.models.exports.table import Quantization

ARCHITECTURES: Final[Mapping[str, gguf.MODEL_ARCH]] = {
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,  # the same computation
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_KINDS: Final[Mapping[str, tuple[Kind, gguf.LlamaFileType]]] = {
    "f32": (Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_TRANSPOSED: Final = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""GPT-2's weights that transformers keeps as (in, out)."""
_CONSTANTS: Final = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class GgufPrompts:
    """What a program must know to prompt the model. `ids`: control tokens by name (`bos`, `eos`, `eot`, `unk`, `sep`,
    `pad`, `mask`). `add_bos`: the program puts the bos token before each text, because no template writes it."""

    ids: Mapping[str, int]
    add_bos: bool
    chat_template: str | None


def write(
    model: PreTrainedModel,
    file: Path,
    *,
    name: str,
    vocabulary: Vocabulary,
    prompts: GgufPrompts,
    quantize: Quantization,
) -> None:
    """Write `model`, of a `model_type` in `ARCHITECTURES`, to `file`.

    Matrices are stored as `quantize`; norms, biases and learned positions as float32, and so are matrices whose rows are
    no multiple of a quantised block, as float16.
    """
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    kind, file_type = _KINDS[quantize]
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    (_gpt2 if config.model_type == "gpt2" else _llama)(writer, config)
    vocabulary.write(writer)
    for role, number in prompts.ids.items():
        getattr(writer, f"add_{role}_token_id")(number)
    writer.add_add_bos_token(prompts.add_bos)
    writer.add_add_eos_token(False)
    if prompts.chat_template is not None:
        writer.add_chat_template(prompts.chat_template)
    blocks = config.n_layer if config.model_type == "gpt2" else config.num_hidden_layers
    names = gguf.get_tensor_name_map(architecture, blocks)
    for key, weight in _tensors(model):
        stem = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if stem is None:
            raise AssertionError(f"llama.cpp has no tensor for {key}")
        stored = _stored(weight, kind, keep="position_embd" in stem)
        writer.add_tensor(stem, gguf.quants.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(weight: NDArray[np.float32], kind: Kind, *, keep: bool) -> Kind:
    if weight.ndim < 2 or keep:
        return Kind.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if weight.shape[-1] % block == 0 else Kind.F16


def _gpt2(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_block_count(config.n_layer)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _llama(writer: gguf.GGUFWriter, config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The weights in llama.cpp's shapes, each once: a tied output is the embedding of the input."""
    config = model.config
    tied = config.tie_word_embeddings
    for key, tensor in model.state_dict().items():
        if key.endswith(_CONSTANTS) or (tied and key == "lm_head.weight"):
            continue
        weight = tensor.detach().to(torch.float32)
        if config.model_type == "gpt2" and key.endswith(_TRANSPOSED):
            weight = weight.T
        if ARCHITECTURES[config.model_type] is gguf.MODEL_ARCH.LLAMA:
            for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                if f".{part}." in key:
                    weight = _interleaved(weight, heads)
        yield key, np.ascontiguousarray(weight.numpy())


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """(heads · D, …) in the order of llama.cpp, which rotates the pairs (2i, 2i + 1), where transformers rotates
    (i, i + D/2)."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])  # (heads, 2, D/2, …)
    return rows.transpose(1, 2).reshape(weight.shape)
