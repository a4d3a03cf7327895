"""Optimizers built from their spec, and their state as plain tensors by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from llmctl.training.spec import Optimizer

DECAY: Final = {"adamw": 0.1, "adam": 0.0, "sgd": 0.0}
"""Default weight decay of each optimizer."""


def build(model: nn.Module, spec: Optimizer, *, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer for a model's trainable weights. Only matrices decay, not biases or norms."""
    decay = spec.weight_decay if spec.weight_decay is not None else DECAY[spec.name]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=spec.betas[0], fused=True)
    rule = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    return rule(groups, lr=lr, betas=spec.betas, eps=spec.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `parameter|slot` -> tensor, in parts where the parameter is."""
    names: dict[Any, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{names[weight]}|{slot}": value.detach().contiguous()
        for weight, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def empty_state(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors for those of `shapes` that `state_tensors` has made, as this process holds them."""
    weights = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        weight = weights.get(name.rpartition("|")[0])
        if weight is not None:
            whole = shape != tuple(weight.shape)
            found[name] = torch.zeros(shape, device=weight.device) if whole else torch.zeros_like(weight.data)
    return found


def load_state(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state of an optimizer from `state_tensors`."""
    weights: dict[str, Any] = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter, _, slot = name.rpartition("|")
        weight = weights[parameter]
        optimizer.state[weight][slot] = value.to(weight.device, copy=True)
