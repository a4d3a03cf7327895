"""Which engine runs a model."""

from __future__ import annotations

from llmctl import registry
from llmctl.engines.spec import EngineSpec
from llmctl.errors import MissingPackage, UsageError
from llmctl.readable import quoted
from llmctl.settings import AUTO
from llmctl.workflows.inference.model import ModelHandle


def engine_for(handle: ModelHandle, requested: str) -> EngineSpec:
    """The engine of a name; `auto`: the one for what the model's folder holds.

    Raises `UsageError` for an engine that cannot run the folder, `MissingPackage` for one that is not installed.
    """
    held = handle.folder.export.format if handle.folder.export else "openai" if handle.server else None
    spec: EngineSpec = registry.load("engines", (held or "torch") if requested == AUTO else requested)
    if spec.name == "openai" and not handle.server:
        raise UsageError(
            "the engine openai asks a server",
            hint="name the model and the server: --model openai:NAME@http://HOST:PORT/v1",
        )
    if spec.format and spec.format != held and not handle.server:
        raise UsageError(
            f"the engine {spec.name} runs a model that was exported for it",
            hint=f"llmctl export {quoted(handle.reference)} --to {spec.format} --out DIR, then --model DIR",
        )
    if spec.name != "openai" and handle.server:
        raise UsageError(f"{handle.reference} is behind a server: the engine is openai", hint="leave the engine out")
    if spec.needs_weights and held:
        raise UsageError(
            f"{handle.reference} was exported to {held}, which the engine {spec.name} cannot run",
            hint="leave the engine out, or name the model that the export was made from",
        )
    if not spec.installed:
        raise MissingPackage(spec.package or spec.name, needed_for=f"the engine {spec.name}", install=spec.install)
    return spec
