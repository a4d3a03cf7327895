"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from llmctl.config import Spec, flag
from llmctl.models.exports.table import FormatName, Quantization
from llmctl.settings import ModelReference, TaskName
from llmctl.values import Folder, Shown


class ExportConfig(Spec):
    """Convert a model for another program, and verify that it answers as before."""

    model: Annotated[ModelReference, Shown(metavar="DIR|FILE", path=True)] = flag(
        ..., "a run, a model folder, an adapter, a GGUF file or hf:ID", panel="Main"
    )
    to: FormatName = flag(..., "gguf (llama.cpp, Ollama), ctranslate2, onnx (ONNX Runtime)", panel="Main")
    out: Folder = flag(..., "folder to create", panel="Main")
    task: TaskName | None = flag(None, "task that it is prompted for (default: the one of its training)")
    quantize: Quantization | None = flag(None, "precision of the weights (default: f32)")
    verify: int = flag(20, "prompts on which the export must answer as the model does; 0: do not verify", ge=0, le=1000)
    base: Path | None = flag(None, "base model of an adapter (default: the recorded path)")
