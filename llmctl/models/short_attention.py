"""Attention of transformers' own architectures in float32 while the rest computes in bfloat16, on a processor.

torch's kernel is the faster in float32 up to a few hundred tokens (see `attention.py`, which does the same). Only the
arithmetic of one function is changed, through transformers' interface for that; the weights and the model stay as
they are.
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
        more["position_bias"] = more["position_bias"].float()  # what T5 adds to the scores for the distance
    with torch.autocast("cpu", enabled=False):
        wide, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **more)
    return wide.to(query.dtype), None


def use(model: Any) -> None:
    """Let a model of transformers attend this way where it uses torch's own attention; others are left alone."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa" or model.config.model_type.startswith("llmctl-"):
        return
    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def restore(model: Any) -> None:
    """torch's own attention again, for scoring in full precision and before the model is saved."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.set_attn_implementation("sdpa")
