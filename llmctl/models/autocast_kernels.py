"""Faster functions for transformers' architectures under bfloat16 autocast on a CPU; the weights do not change.

* Attention in float32, in which torch's kernel is faster up to a few hundred tokens (see `attention.py`, which does the
  same). It is replaced through transformers' interface for it.
* GPT-2's GELU by torch's one kernel for it, where transformers writes out eight operations.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import NewGELUActivation
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


class FusedGelu(NewGELUActivation):  # type: ignore[misc]
    """0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) in one kernel under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu") and input.device.type == "cpu":
            return F.gelu(input, approximate="tanh")
        same: Tensor = super().forward(input)
        return same


def use(model: Any) -> None:
    """Use these functions in a transformers model that uses torch's SDPA; leave other models unchanged."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa" or model.config.model_type.startswith("llmctl-"):
        return
    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    _exchange(model, NewGELUActivation, FusedGelu)


def restore(model: Any) -> None:
    """Switch back to the library's own, for scoring in full precision and before saving the model."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.set_attn_implementation("sdpa")
        _exchange(model, FusedGelu, NewGELUActivation)


def _exchange(model: Any, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Make the modules of one class, which hold nothing, those of another."""
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new
