"""Settings of `merge`."""

from __future__ import annotations

from pathlib import Path

from llmctl.config import Spec, flag
from llmctl.workflows.settings import ModelReference


class MergeConfig(Spec):
    """Plain weights of an adapter on its base, or of a GGUF file."""

    model: ModelReference = flag(..., "a run or folder that holds an adapter, or a GGUF file", panel="Main")
    out: Path = flag(..., "the model folder to make", panel="Main")
    base: Path | None = flag(None, "the adapter's base, where it is no longer where it was", panel="Main")
