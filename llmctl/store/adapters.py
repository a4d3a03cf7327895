"""An adapter in peft's layout, looked at by its JSON alone: low-rank matrices that stand on the weights of a base.

    adapter_config.json          rank, alpha, which linear layers
    adapter_model.safetensors    the two matrices of each, and a head that was learned whole

Only what is read here reaches peft: other keys of an adapter's config can name modules to import, files to unpickle or
another arithmetic, and are refused unless they are at rest.
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

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
IN_STACK: Final = re.compile(r"(?:.*\.)?\d+\.(?P<ending>[^\d].*)")
"""A module or weight within a numbered layer: `model.layers.3.self_attn.q_proj`."""
_IGNORED_KEYS: Final = frozenset(
    ["base_model_name_or_path", "inference_mode", "peft_version", "qalora_group_size", "revision", "task_type"]
)
"""Keys that say nothing about the arithmetic. The base that is named is never fetched: see `workflows/adapters.py`."""
_AT_REST: Final = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True, "megatron_core": "megatron.core"}


class LoraFile(Spec):
    """`adapter_config.json`: W + alpha / rank · B A in the place of W (Hu et al. 2021, arXiv:2106.09685)."""

    rank: StrictInt = key(..., "width of the two matrices", ge=1)
    alpha: StrictFloat = key(..., "their product counts alpha / rank times", gt=0)
    dropout: StrictFloat = key(0.0, "share of what they read dropped while training", ge=0, lt=1)
    targets: tuple[str, ...] = key(..., "endings of the names of the linear layers they stand on", min_length=1)
    whole: tuple[str, ...] = key((), "modules that were learned whole")
    transposed: bool = key(False, "the layers keep their weights transposed, as GPT-2's do")


def stack_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of a model's weights the linear layers within numbered ones: name of the module -> shape of its matrix."""
    named = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {name: shape for name, shape in named.items() if len(shape) == 2 and IN_STACK.fullmatch(name)}


def is_target(name: str, targets: tuple[str, ...]) -> bool:
    """Whether an adapter with these targets stands on the layer of that name, as peft reads its target_modules."""
    return any(name == each or name.endswith(f".{each}") for each in targets)


def check_targets(targets: tuple[str, ...] | None, layers: Iterable[str]) -> None:
    """Raise `UsageError` where an adapter would have no layer of `layers` to stand on, `ConfigError` for targets that
    are none of them."""
    names = list(layers)
    if not names:
        raise UsageError(
            "the model has no stack of linear layers that an adapter could stand on",
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
    """The adapter that a config (of `path`) describes.

    Raises `IntegrityError` for one that is no plain LoRA, or that asks for code.
    """
    value = dict(document)
    if value.get("auto_mapping"):
        raise IntegrityError(
            "auto_mapping asks for code of its own to be run; llmctl never does", where=f"{path}:auto_mapping"
        )
    ours = {
        "rank": value.pop("r", None),
        "alpha": _number(value.pop("lora_alpha", None)),
        "dropout": _number(value.pop("lora_dropout", 0.0)),
        "targets": value.pop("target_modules", None),
        "whole": value.pop("modules_to_save", None) or (),
        "transposed": value.pop("fan_in_fan_out", False),
    }
    restless = [
        name for name, each in value.items() if name not in _IGNORED_KEYS and each and each != _AT_REST.get(name)
    ]
    if value.get("peft_type", "LORA") != "LORA" or restless:
        what = ", ".join(f"{name}: {value[name]!r}" for name in sorted({*restless, "peft_type"} & value.keys()))
        raise IntegrityError(f"no plain LoRA adapter ({what})", where=str(path), hint="merge it with peft, name that")
    if isinstance(ours["targets"], str):
        raise IntegrityError("target_modules is a pattern, not a list of names", where=f"{path}:target_modules")
    try:
        return LoraFile.model_validate(ours)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{name}: {first['msg'].lower()}", where=str(path)) from error


def write(folder: Path, adapter: LoraFile, *, base: Path, task_type: str | None) -> None:
    """`adapter_config.json` as peft writes it; what is not named here is at peft's defaults."""
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
    """JSON's 16 is the number 16.0 where a number is wanted."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
