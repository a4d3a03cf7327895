"""Settings of `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from llmctl.config import Spec, flag
from llmctl.settings import ModelReference
from llmctl.values import Folder, Shown


class MergeConfig(Spec):
    """Merge an adapter into its base, or convert a GGUF file."""

    model: Annotated[ModelReference, Shown(metavar="DIR|FILE", path=True)] = flag(
        ..., "a run or folder with an adapter, or a GGUF file", panel="Main"
    )
    out: Folder = flag(..., "model folder to create", panel="Main")
    base: Path | None = flag(None, "base model of the adapter (default: the recorded path)", panel="Main")
