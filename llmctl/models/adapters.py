"""Low-rank adapters (LoRA) on pretrained weights, through peft: attach, save, load and merge.

    W' = W + alpha / rank · B A,    A (rank, in) random, B (out, rank) zero

Adapters are injected into the model's own modules, so that all code for the base model also works with the adapter.

Paper: Hu et al. 2021, LoRA, arXiv:2106.09685; on every linear layer: Dettmers et al. 2023, QLoRA, arXiv:2305.14314.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmctl.errors import IntegrityError
from llmctl.models import families, pretrained
from llmctl.models.spec import Adapter
from llmctl.store import adapters as store
from llmctl.store.adapters import IN_STACK, LoraFile, is_target
from llmctl.store.border import border
from llmctl.store.models import ModelFolder
from llmctl.types import Family

_NAME: Final = "default"
"""peft's name for the adapter; omitted in files."""
_PREFIX: Final = "base_model.model."
"""The prefix of weight names in peft's files."""
_TASK_TYPES: Final[Mapping[Family, str]] = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}


def resolve(model: PreTrainedModel, requested: Adapter, family: Family) -> LoraFile:
    """Resolve the requested adapter for this model; by default it covers every linear layer in the stack.

    An encoder's head (classifier, pooler) is trained in full: it is small, and new if the base was trained for another
    task. Raises `UsageError` for a model without linear layers in its stack, `ConfigError` for targets that
    do not exist.
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
    """Attach the adapter in place and freeze all other weights. A is random from torch's current seed, B is zero.

    Returns peft's model, which can merge the adapter. Raises `MissingPackage` without peft.
    """
    store.check_installed()
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # peft only divides it by r, so it need not be an integer
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets),
        fan_in_fan_out=adapter.transposed,
    )
    place = model.name_or_path or type(model).__name__
    with border("the adapter does not fit the model", place), _weights_without_memory(model):
        tuner = LoraModel(model, config, _NAME)
    for name, weight in model.named_parameters():
        if _is_whole(name, adapter):
            weight.requires_grad_(True)
    return tuner


@contextlib.contextmanager
def _weights_without_memory(model: nn.Module) -> Iterator[None]:
    """Within the block, weights on the device `meta` are on the CPU, one number that is repeated: peft moves what it adds to
    the device of the weight beside it, and on `meta` nothing has values."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module, name, weight in _own_weights(model):
        if weight.is_meta:
            if weight not in made:
                made[weight] = nn.Parameter(torch.zeros((), dtype=weight.dtype).expand(weight.shape))
            setattr(module, name, made[weight])
    yield
    before = {new: weight for weight, new in made.items()}
    for module, name, weight in _own_weights(model):
        if weight in before:
            setattr(module, name, before[weight].requires_grad_(weight.requires_grad))


def _own_weights(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Every weight with the module that holds it; a tied one several times."""
    return [(each, *own) for each in model.modules() for own in each.named_parameters(recurse=False)]


def names_with_adapter(model: nn.Module, names: Mapping[str, str]) -> dict[str, str]:
    """`names`, whose keys are names of weights and buffers before `attach`, with their names after it."""
    own = model.state_dict().keys()
    return {name if name in own else ".base_layer.".join(name.rsplit(".", 1)): each for name, each in names.items()}


def cast_frozen_to_bf16(model: PreTrainedModel) -> None:
    """Cast the frozen weights of the adapted layers to bfloat16, for training under bfloat16 autocast.

    The products do not change, since autocast would round the weights in each of them; this saves time and memory.
    """
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Linear | Conv1D):
            module.cast_input_dtype_enabled = False  # let autocast choose the dtypes instead of peft
            base.weight.data = base.weight.data.to(torch.bfloat16)


def is_cast_to_bf16(model: PreTrainedModel) -> bool:
    """Whether the model has mixed dtypes, and so can compute only under bfloat16 autocast."""
    return len({weight.dtype for weight in model.parameters()}) > 1


def save(
    model: PreTrainedModel,
    adapter: LoraFile,
    folder: Path,
    *,
    base: Path,
    family: Family,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder`. `weights`: the trained weights, in place of
    the model's own."""
    own = _tensors(model) if weights is None else ((_in_file(name), each) for name, each in weights.items())
    save_file(dict(own), str(folder / store.WEIGHTS), metadata={"format": "pt"})
    task_type = "SEQ_CLS" if "ForSequenceClassification" in type(model).__name__ else _TASK_TYPES.get(family)
    store.write(folder, adapter, base=base, task_type=task_type)


def merged(model: PreTrainedModel, adapter: LoraFile, folder: Path) -> PreTrainedModel:
    """`model` (the base, in float32) with the adapter in `folder` merged into its weights and peft's modules removed.

    Raises `IntegrityError` if the two do not fit together, or if a weight is not finite.
    """
    tuner = attach(model, adapter)
    _load_weights(model, folder / store.WEIGHTS)
    result: PreTrainedModel = tuner.merge_and_unload()
    broken = [name for name, weight in result.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise IntegrityError(f"{len(broken)} weights are not finite: {', '.join(broken[:5])}", where=str(folder))
    return result.requires_grad_(True)


def _load_weights(model: PreTrainedModel, path: Path) -> None:
    """Load the adapter's weights from a file, which must hold exactly the trainable weights."""
    with border("cannot be opened", path):
        found = load_file(str(path))
    expected = dict(_tensors(model))
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:5])}"
        for kind, names in (
            ("missing", sorted(expected.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - expected.keys())),
            (
                "with a different shape",
                sorted(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape),
            ),
        )
        if names
    ]
    if faults:
        raise IntegrityError(
            f"the weights do not fit the adapter on {type(model).__name__}: {'; '.join(faults)}", where=str(path)
        )
    for name, weight in expected.items():
        weight.copy_(found[name])


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The trainable weights, under the names in peft's files."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield _in_file(name), weight.data


def _in_file(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".")


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers in the stack, between the token vectors and the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and IN_STACK.fullmatch(name)
    }


def _ending(name: str) -> str:
    """The part of the name within its layer: `self_attn.q_proj`."""
    found = IN_STACK.fullmatch(name)
    assert found is not None
    return found["ending"]


def _heads(model: PreTrainedModel) -> set[str]:
    """The modules outside the encoder, and its pooler, under the names of peft's `modules_to_save`."""
    prefix = f"{model.base_model_prefix}."
    names = (name for name, _ in model.named_parameters())
    outside = {name.partition(".")[0] for name in names if not name.startswith(prefix)}
    return outside | ({"pooler"} if getattr(model.base_model, "pooler", None) is not None else set())


def _is_whole(name: str, adapter: LoraFile) -> bool:
    return any(part in adapter.whole for part in name.split(".")[:-1])


def with_adapter(folder: ModelFolder) -> Any:
    """The base of an adapter with the adapter merged into it, in float32, so that it runs as fast as the base.

    If the base lacks the trained head, a new one is created; `merged` rejects an adapter that does not hold all of its
    weights.
    """
    assert folder.adapter is not None
    assert folder.base is not None
    labels = folder.card.labels if folder.card else ()
    masked = not labels and (folder.card is not None or families.fills_masks(folder.config))
    family = families.family_of(folder.config)
    base = pretrained.load(folder.base, family, labels=labels or None, masked=masked)
    return merged(base, folder.adapter, folder.path)
