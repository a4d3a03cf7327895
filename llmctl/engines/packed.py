"""bf16 weights in the order in which the processor reads them.

A matrix product in bf16 on a CPU puts its weights into blocks first, at every call. For a few rows this costs more than the
product. Here it is done once; the results are those of `torch.nn.functional.linear` up to rounding.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import psutil
import torch
from torch import Tensor, nn

MEMORY_SHARE: Final = 4
"""The packed weights are a copy. It may take a fourth of the memory that is free."""


class PackedLinear(nn.Module):
    """A linear layer in the place of another, whose parameters it shows."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = own.weight, own.bias
        self.in_features, self.out_features = own.in_features, own.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            own.weight.detach(), 1
        )  # packed for 1 row; takes any number

    def forward(self, values: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._packed, self.bias, "none", [], "")
        return found


def packed(model: Any) -> Any:
    """The same model, sharing all its parameters, with its bf16 linear layers packed; the model itself where that has no
    effect or its weights may still change, where memory is short, and where the rest is not bf16: it would give the packed
    layers float32 values, which they do not take, not even under autocast."""
    if str(model.device) != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return model
    if any(each.dtype != torch.bfloat16 for each in model.parameters()):
        return model
    size = sum(each.weight.nbytes for each in model.modules() if _fits(each))
    if not size or size > psutil.virtual_memory().available // MEMORY_SHARE:
        return model
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model
    with torch.no_grad():
        return _with_packed(model)


def _fits(module: Any) -> bool:
    if type(module) is not nn.Linear:  # a subclass computes something else
        return False
    return module.weight.dtype == torch.bfloat16 and not module.weight.requires_grad


def _with_packed(module: Any) -> Any:
    if _fits(module):
        return PackedLinear(module)
    children = {name: each and _with_packed(each) for name, each in module._modules.items()}
    if all(children[name] is each for name, each in module._modules.items()):
        return module
    shared = shallow(module)
    shared._modules = children
    return shared


def shallow(module: Any) -> Any:
    """The module with the same parameters and a table of submodules of its own."""
    found = copy.copy(module)
    found._modules = dict(module._modules)
    return found
