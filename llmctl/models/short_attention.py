"""float32 attention for transformers' architectures under bfloat16 autocast on a CPU.

torch's kernel is faster in float32 up to a few hundred tokens (see `attention.py`, which does the same). This replaces
only the attention function, through transformers' interface for it; the weights and the model do not change.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmctl.models.attention import FLOAT32_TOKENS

NAME: Final = "llmctl_short"


def forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """query (B, N, T, D), key and value (B, N, S, D) -> (B, T, N, D), as transformers' sdpa."""
    if not torch.is_autocast_enabled("cpu") or query.device.type != "cpu" or key.shape[2] > FLOAT32_TOKENS:
        same: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **more)
        return same
    if more.get("position_bias") is not None:
        more["position_bias"] = more["position_bias"].float()  # T5's relative position bias
    with torch.autocast("cpu", enabled=False):
        wide, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **more)
    return wide.to(query.dtype), None


def use(model: Any) -> None:
    """Use this attention in a transformers model that uses torch's SDPA; leave other models unchanged."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa" or model.config.model_type.startswith("llmctl-"):
        return
    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def restore(model: Any) -> None:
    """Switch back to torch's SDPA, for scoring in full precision and before saving the model."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.set_attn_implementation("sdpa")
