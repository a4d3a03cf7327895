"""`merge`: write a plain model folder from an adapter and its base, or from a GGUF file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl.errors import UsageError
from llmctl.models.resolve import PARENT_PATH, convert, gguf_file, open_weights
from llmctl.models.spec import HUB
from llmctl.store import adapters as store
from llmctl.store import atomic
from llmctl.store.models import ModelFolder, write_card
from llmctl.types import Event, EventSink, null_sink
from llmctl.workflows.merge.spec import MergeConfig

MARKER: Final = "config.json"
"""The file that identifies a model folder, which `--force` may replace."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The checked input: an adapter with its base, or a GGUF file."""

    config: MergeConfig
    adapter: ModelFolder | None
    file: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The plan shown by `--dry-run`."""
        if self.adapter is None:
            return {"gguf": str(self.file)}
        return {"adapter": str(self.adapter.path), "base": str(self.adapter.base)}


def preflight(config: MergeConfig, *, force: bool, offline: bool, emit: EventSink = null_sink) -> MergePlan:
    """Check everything that can be checked before torch is imported.

    Raises `UsageError` if the model is not an adapter, and what `open_weights` raises.
    """
    file = None if config.model.startswith(HUB) else gguf_file(Path(config.model).expanduser())
    if file is not None:
        _check_output(config, [file], force=force)
        return MergePlan(config, None, file)
    adapter = open_weights(config.model, base=config.base, offline=offline, emit=emit)
    if adapter.base is None:
        raise UsageError(
            f"{config.model} is not an adapter: there is nothing to merge", hint="use it directly as --model"
        )
    _check_output(config, [adapter.path, *adapter.base.glob("*.safetensors")], force=force)
    return MergePlan(config, adapter, None)


def _check_output(config: MergeConfig, inputs: list[Path], *, force: bool) -> None:
    atomic.refuse_same(config.out, inputs)
    atomic.refuse_existing(config.out, force=force, marker=MARKER)
    atomic.check_writable(config.out, bytes_needed=sum(each.stat().st_size for each in inputs if each.is_file()))


def merge(plan: MergePlan, emit: EventSink, *, force: bool = False) -> dict[str, Any]:
    """Write the model folder. Weights are float32, because rounding the sum to bfloat16 would lose small updates."""
    started, config = time.monotonic(), plan.config
    with atomic.atomic_folder(config.out, force=force, marker=MARKER) as folder:
        if plan.adapter is None:
            assert plan.file is not None
            emit(Event("note", {"text": f"converting {plan.file} to safetensors in float32"}))
            convert(plan.file, folder)
        else:
            _merge(plan.adapter, folder)
        weights = sum(each.stat().st_size for each in folder.glob("*.safetensors"))
    return {
        "model": str(config.out),
        "dtype": "float32",
        "weights_bytes": weights,
        "seconds": round(time.monotonic() - started, 3),
    }


def _merge(source: ModelFolder, folder: Path) -> None:
    """Write the merged weights, config and generation settings, and the tokenizer and card of the adapter."""
    from llmctl.models import pretrained
    from llmctl.models.adapters import with_adapter
    from llmctl.store.tokenizers import copy_tokenizer

    card = source.card
    pretrained.save(with_adapter(source), folder)
    copy_tokenizer(source.path, folder)
    adapter = atomic.sha256(source.path / store.WEIGHTS)
    if card is not None:
        parents = {name: value for name, value in card.parents.items() if name != PARENT_PATH}
        write_card(folder, card.replace(parents=parents | {"adapter": adapter}))
    atomic.write_text(folder / "README.md", _readme(source, adapter))


def _readme(source: ModelFolder, adapter: str) -> str:
    """The README of the adapter, if any, with a section about the merge."""
    own = source.path / "README.md"
    about = own.read_text(encoding="utf-8") if own.is_file() else f"# {source.path.name}\n"
    return f"""{about.rstrip()}

## Merged

The adapter (weights sha256 {adapter}) was merged into the weights of its base; this folder is self-contained.
"""
