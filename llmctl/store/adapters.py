"""LoRA adapters in peft's format, read from their JSON alone: low-rank updates to the weights of a base model.

    adapter_config.json          rank, alpha, target linear layers
    adapter_model.safetensors    both matrices of each target layer, and any fully trained modules, such as a head

Only the fields read here reach peft. Other keys of an adapter config can name modules to import, files to unpickle or
a different computation; they are refused unless they hold their default values.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import StrictFloat, StrictInt, ValidationError

from llmctl.config import Spec, key
from llmctl.errors import ConfigError, Fault, IntegrityError, MissingPackage, UsageError
from llmctl.registry import near
from llmctl.store import atomic
from llmctl.store.weights import shapes

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
IN_STACK: Final = re.compile(r"(?:.*\.)?\d+\.(?P<ending>[^\d].*)")
"""A module or weight within a numbered layer: `model.layers.3.self_attn.q_proj`."""
_IGNORED_KEYS: Final = frozenset(
    ["base_model_name_or_path", "inference_mode", "peft_version", "qalora_group_size", "revision", "task_type"]
)
"""Keys that do not affect the computation. The base model they name is never downloaded: see `models/resolve.py`."""
_AT_REST: Final = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True, "megatron_core": "megatron.core"}


class LoraFile(Spec):
    """`adapter_config.json`: W is replaced by W + alpha / rank · B A (Hu et al. 2021, arXiv:2106.09685)."""

    rank: StrictInt = key(..., "rank of the low-rank matrices", ge=1)
    alpha: StrictFloat = key(..., "scale: the update is multiplied by alpha / rank", gt=0)
    dropout: StrictFloat = key(0.0, "dropout probability on the adapter's input while training", ge=0, lt=1)
    targets: tuple[str, ...] = key(..., "suffixes of the names of the adapted linear layers", min_length=1)
    whole: tuple[str, ...] = key((), "modules trained in full")
    transposed: bool = key(False, "the layers store their weights transposed, as GPT-2 does")


def stack_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Select the linear layers inside numbered layers: module name -> shape of its weight matrix."""
    named = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {name: shape for name, shape in named.items() if len(shape) == 2 and IN_STACK.fullmatch(name)}


def is_target(name: str, targets: tuple[str, ...]) -> bool:
    """Whether an adapter with these targets applies to the layer of that name; matches as peft's target_modules do."""
    return any(name == each or name.endswith(f".{each}") for each in targets)


def check_targets(targets: tuple[str, ...] | None, layers: Iterable[str]) -> None:
    """Raise `UsageError` if `layers` has no layer for an adapter, `ConfigError` for targets that match none of them."""
    names = list(layers)
    if not names:
        raise UsageError(
            "the model has no stack of linear layers to adapt",
            hint="train all its weights: leave out --adapter",
        )
    known = sorted({name.rpartition(".")[2] for name in names})
    faults = [
        Fault("adapter.targets", f"no linear layer {each!r}", near(each, known) or f"it has {', '.join(known)}")
        for each in targets or ()
        if not any(is_target(name, (each,)) for name in names)
    ]
    if faults:
        raise ConfigError(faults)


def check_installed() -> None:
    """Raise `MissingPackage` without peft."""
    if importlib.util.find_spec("peft") is None:
        raise MissingPackage("peft", needed_for="an adapter", install="pip install 'llmctl[adapters]'")


def parse(document: Mapping[str, Any], path: Path) -> LoraFile:
    """Parse an adapter config; `path` is its file, for messages.

    Raises `IntegrityError` for anything other than plain LoRA, or if opening it would run code.
    """
    value = dict(document)
    if value.get("auto_mapping"):
        raise IntegrityError(
            "auto_mapping would run code from the adapter; llmctl never does", where=f"{path}:auto_mapping"
        )
    ours = {
        "rank": value.pop("r", None),
        "alpha": _number(value.pop("lora_alpha", None)),
        "dropout": _number(value.pop("lora_dropout", 0.0)),
        "targets": value.pop("target_modules", None),
        "whole": value.pop("modules_to_save", None) or (),
        "transposed": value.pop("fan_in_fan_out", False),
    }
    unsupported = [
        name for name, each in value.items() if name not in _IGNORED_KEYS and each and each != _AT_REST.get(name)
    ]
    if value.get("peft_type", "LORA") != "LORA" or unsupported:
        what = ", ".join(f"{name}: {value[name]!r}" for name in sorted({*unsupported, "peft_type"} & value.keys()))
        raise IntegrityError(
            f"not a plain LoRA adapter ({what})",
            where=str(path),
            hint="merge it into its base with peft and name the merged model",
        )
    if isinstance(ours["targets"], str):
        raise IntegrityError("target_modules is a pattern, not a list of names", where=f"{path}:target_modules")
    try:
        return LoraFile.model_validate(ours)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{name}: {first['msg'].lower()}", where=str(path)) from error


def check_rank(adapter: LoraFile, path: Path) -> None:
    """Raise `IntegrityError` if the weights beside `path` have no matrix of the rank: building it could fill the memory."""
    most = max((size for each in shapes(path.parent).values() for size in each), default=0)
    if adapter.rank > most:
        raise IntegrityError(
            f"is {adapter.rank:,}, but no weight has more than {most:,} rows",
            where=f"{path}:r",
            hint="copy the folder again",
        )


def write(folder: Path, adapter: LoraFile, *, base: Path, task_type: str | None) -> None:
    """Write `adapter_config.json` as peft does; keys left out have peft's default values."""
    fields: Mapping[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": str(base),
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": list(adapter.targets),
        "modules_to_save": list(adapter.whole) or None,
        "fan_in_fan_out": adapter.transposed,
        "bias": "none",
    }
    atomic.write_json(folder / CONFIG, fields)


def _number(value: Any) -> Any:
    """Convert an integer to float, so that JSON's 16 passes as 16.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
