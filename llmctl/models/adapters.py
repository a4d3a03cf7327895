"""Low-rank adapters on given weights, through peft: put on, trained, kept, merged.

    W' = W + alpha / rank · B A,    A (rank, in) random, B (out, rank) zero

The layers keep their names and places, so that whatever works with the model works with the adapter on it.

Paper: Hu et al. 2021, LoRA, arXiv:2106.09685; on every linear layer: Dettmers et al. 2023, QLoRA, arXiv:2305.14314.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmctl.errors import IntegrityError
from llmctl.models import families, pretrained
from llmctl.models.spec import Adapter
from llmctl.store import adapters as store
from llmctl.store.adapters import IN_STACK, LoraFile, is_target
from llmctl.store.models import ModelFolder
from llmctl.types import Family

_NAME: Final = "default"
"""peft's name of an adapter; in files it is left out."""
_PREFIX: Final = "base_model.model."
"""What peft writes before each name of a weight."""
_TASK_TYPES: Final[Mapping[Family, str]] = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}


def resolve(model: PreTrainedModel, requested: Adapter, family: Family) -> LoraFile:
    """The adapter that is asked for, on this model: by default on every linear layer of the stack.

    An encoder's head (classifier, pooler) is learned whole: it is small, and new where the base was trained for
    something else. Raises `UsageError` for a model without linear layers in its stack, `ConfigError` for targets that it
    does not have.
    """
    layers = _linear_layers(model)
    store.check_targets(requested.targets, layers)
    targets = tuple(sorted(set(requested.targets or map(_ending, layers))))
    chosen = [layer for name, layer in layers.items() if is_target(name, targets)]
    return LoraFile(
        rank=requested.rank,
        alpha=requested.alpha if requested.alpha is not None else 2.0 * requested.rank,
        dropout=requested.dropout,
        targets=targets,
        whole=tuple(sorted(_heads(model))) if family == "encoder" else (),
        transposed=isinstance(chosen[0], Conv1D),
    )


def attach(model: PreTrainedModel, adapter: LoraFile) -> Any:
    """Put the adapter on, in place: all else is frozen. A is random from torch's current seed, B zero.

    Returns peft's own object, which can merge it. Raises `MissingPackage` without peft.
    """
    store.check_installed()
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # peft divides it; a fraction is as good
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets),
        fan_in_fan_out=adapter.transposed,
    )
    try:
        tuner = LoraModel(model, config, _NAME)
    except ValueError as error:
        raise IntegrityError(f"the adapter does not fit the model: {str(error).splitlines()[0]}") from error
    for name, weight in model.named_parameters():
        if _is_whole(name, adapter):
            weight.requires_grad_(True)
    return tuner


def cast_frozen_to_bf16(model: PreTrainedModel) -> None:
    """Frozen weights of the layers under an adapter in bfloat16, for training under autocast to it: the products are the
    same, since autocast would round the weights anew in each of them, in less time and memory."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Linear | Conv1D):
            module.cast_input_dtype_enabled = False  # autocast chooses the types, not peft
            base.weight.data = base.weight.data.to(torch.bfloat16)


def is_cast_to_bf16(model: PreTrainedModel) -> bool:
    """Whether the model computes under autocast to bfloat16 only."""
    return len({weight.dtype for weight in model.parameters()}) > 1


def save(model: PreTrainedModel, adapter: LoraFile, folder: Path, *, base: Path, family: Family) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder`."""
    save_file(dict(_tensors(model)), str(folder / store.WEIGHTS), metadata={"format": "pt"})
    task_type = "SEQ_CLS" if "ForSequenceClassification" in type(model).__name__ else _TASK_TYPES.get(family)
    store.write(folder, adapter, base=base, task_type=task_type)


def merged(model: PreTrainedModel, adapter: LoraFile, folder: Path) -> PreTrainedModel:
    """`model` (the base, in float32) with the adapter of `folder` added to its weights; nothing of peft is left on it.

    Raises `IntegrityError` where the two do not belong together, or where a weight is not finite.
    """
    tuner = attach(model, adapter)
    _fill(model, folder / store.WEIGHTS)
    whole: PreTrainedModel = tuner.merge_and_unload()
    broken = [name for name, weight in whole.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise IntegrityError(f"{len(broken)} weights are not finite: {', '.join(broken[:5])}", where=str(folder))
    return whole.requires_grad_(True)


def _fill(model: PreTrainedModel, path: Path) -> None:
    """The adapter's weights from a file: every one that is trained, and no other."""
    try:
        found = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"cannot be opened: {error}", where=str(path)) from error
    wanted = dict(_tensors(model))
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:5])}"
        for kind, names in (
            ("missing", sorted(wanted.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - wanted.keys())),
            (
                "of another shape",
                sorted(name for name in wanted.keys() & found.keys() if wanted[name].shape != found[name].shape),
            ),
        )
        if names
    ]
    if faults:
        raise IntegrityError(
            f"the weights do not fit the adapter on {type(model).__name__}: {'; '.join(faults)}", where=str(path)
        )
    for name, weight in wanted.items():
        weight.copy_(found[name])


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What is trained, by peft's names."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield _PREFIX + name.replace(f".{_NAME}.", "."), weight.data


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the stack: what lies between the token vectors and the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and IN_STACK.fullmatch(name)
    }


def _ending(name: str) -> str:
    """The name within its layer: `self_attn.q_proj`."""
    found = IN_STACK.fullmatch(name)
    assert found is not None
    return found["ending"]


def _heads(model: PreTrainedModel) -> set[str]:
    """Modules outside of the encoder, and its pooler, as peft would call them in `modules_to_save`."""
    prefix = f"{model.base_model_prefix}."
    names = (name for name, _ in model.named_parameters())
    outside = {name.partition(".")[0] for name in names if not name.startswith(prefix)}
    return outside | ({"pooler"} if getattr(model.base_model, "pooler", None) is not None else set())


def _is_whole(name: str, adapter: LoraFile) -> bool:
    return any(part in adapter.whole for part in name.split(".")[:-1])


def with_adapter(folder: ModelFolder) -> Any:
    """The base of an adapter with the adapter merged into it, in float32: as fast as any model of its size.

    Where the base lacks the head that was learned, it is made: `adapters.merged` refuses an adapter that does not hold
    all of it.
    """
    assert folder.adapter is not None
    assert folder.base is not None
    labels = folder.card.labels if folder.card else ()
    masked = not labels and (folder.card is not None or families.fills_masks(folder.config))
    family = families.family_of(folder.config)
    base = pretrained.load(folder.base, family, labels=labels or None, masked=masked)
    return merged(base, folder.adapter, folder.path)
