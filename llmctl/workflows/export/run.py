"""`export`: convert a model, write what other verbs need beside it, and verify the result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmctl.data.examples.layout import Layout
from llmctl.errors import UsageError
from llmctl.models import families
from llmctl.models.exports import table
from llmctl.models.exports.table import FORMATS, Quantization
from llmctl.models.resolve import PARENT_PATH, open_weights
from llmctl.store import atomic, exports
from llmctl.store.adapters import WEIGHTS
from llmctl.store.models import Card, ModelFolder, write_card
from llmctl.types import Event, EventSink, Family, null_sink
from llmctl.workflows.export.spec import ExportConfig
from llmctl.workflows.inference.model import ModelHandle, find_model

_TASKS: Final[Mapping[Family, str]] = {"encoder-decoder": "translation", "encoder": "classification"}
"""The task of a model that does not name its own; of a decoder, see `find_model`."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The checked input: the model, how it is prompted, and the precision of the export."""

    config: ExportConfig
    handle: ModelHandle
    quantize: Quantization

    def to_dict(self) -> dict[str, Any]:
        """The plan shown by `--dry-run`."""
        described = self.handle.folder.config
        return {"model_type": described.get("model_type"), "task": self.handle.task.name, "quantize": self.quantize}


def preflight(config: ExportConfig, *, force: bool, offline: bool, emit: EventSink = null_sink) -> ExportPlan:
    """Check everything that can be checked before torch is imported. Raises `UsageError` for what cannot be exported."""
    folder = open_weights(config.model, base=config.base, offline=offline, emit=emit)
    if folder.export is not None:
        raise UsageError(f"{config.model} is an export already: export the model that it was made from")
    quantize = table.check(folder.config, config.to, config.quantize)
    FORMATS[config.to].check_installed()
    otherwise = _TASKS.get(families.family_of(folder.config))
    handle = find_model(
        config.model, task=config.task, otherwise=otherwise, base=config.base, offline=offline, emit=emit
    )
    inputs = [folder.path, *([folder.base] if folder.base else [])]
    atomic.refuse_same(config.out, inputs)
    atomic.refuse_existing(config.out, force=force, marker=exports.EXPORT)
    weights = sum(each.stat().st_size for place in inputs for each in place.glob("*.safetensors"))
    atomic.check_writable(config.out, bytes_needed=weights)
    return ExportPlan(config, handle, quantize)


def export(plan: ExportPlan, emit: EventSink, *, force: bool = False) -> dict[str, Any]:
    """Make the folder. It is kept if the verification is not met: `checks` say so."""
    from llmctl.store.tokenizers import copy_tokenizer
    from llmctl.workflows.export import converters, verify
    from llmctl.workflows.inference.requests import open_request_builder

    started = time.monotonic()
    config, handle, source = plan.config, plan.handle, plan.handle.folder
    builder = open_request_builder(handle)
    with atomic.atomic_folder(config.out, force=force, marker=exports.EXPORT) as folder:
        emit(Event("note", {"text": f"converting {config.model} to {config.to}, {plan.quantize}"}))
        files = converters.write(config.to, handle, builder.layout, folder, plan.quantize, name=config.out.name)
        copy_tokenizer(source.path, folder)
        write_card(folder, _card(handle, builder.layout), files)
        done = exports.Export(
            format=config.to,
            quantize=plan.quantize,
            size_bytes=sum(each.stat().st_size for each in files),
            source_sha256=_source(source),
            versions={name: importlib.metadata.version(name) for name in FORMATS[config.to].packages},
        )
        exports.write(folder, done)
        if config.verify:
            emit(Event("note", {"text": f"comparing {config.verify} answers with those of the model"}))
            done = done.replace(checks=verify.compare(handle, folder, config.verify))
            exports.write(folder, done)
    return exports.document(done) | {"out": str(config.out), "seconds": round(time.monotonic() - started, 3)}


def _source(source: ModelFolder) -> str:
    """The hash of the file of weights that was exported, as `sha256sum` prints it; of several, of their list."""
    files = [source.path / WEIGHTS] if source.adapter else sorted(source.path.glob("*.safetensors"))
    if len(files) == 1:
        return atomic.sha256(files[0])
    return hashlib.sha256("".join(f"{atomic.sha256(each)}  {each.name}\n" for each in files).encode()).hexdigest()


def _card(handle: ModelHandle, layout: Layout) -> Card:
    """The card of the source, or for a folder without one how llmctl prompts it."""
    card = handle.folder.card
    if card is None:
        card = Card(
            task=handle.task.name,
            family=handle.family,
            style=layout.prompt_format,
            instruction=layout.instruction,
            labels=handle.labels,
        )
    parents = {name: value for name, value in card.parents.items() if name != PARENT_PATH}
    return card.replace(parents=parents)
