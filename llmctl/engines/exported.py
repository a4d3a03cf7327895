"""A model that another library runs, in the shape of a transformers model: its settings, and a forward pass if it has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from llmctl.engines.loaded import LoadedModel
from llmctl.store.border import border, quiet
from llmctl.store.model_config import GENERATION
from llmctl.store.models import ModelFolder
from llmctl.types import Family

Forward = Callable[..., Tensor]


class ExportedModel:
    """What `LoadedModel` and the scoring of labels use of a transformers model. It computes on the CPU, in float32."""

    training = False
    device = "cpu"
    dtype = torch.float32

    def __init__(self, folder: ModelFolder, forward: Forward | None = None) -> None:
        """`forward(input_ids, attention_mask)`, (B, T) each, gives the logits of an encoder, (B, labels)."""
        described: Path = folder.architecture
        self.name_or_path = str(folder.path)
        with quiet(), border("the settings of the model cannot be read", described / "config.json"):
            self.config: Any = AutoConfig.from_pretrained(described, local_files_only=True, trust_remote_code=False)
            own = (described / GENERATION).is_file()
            self.generation_config = (
                GenerationConfig.from_pretrained(described) if own else GenerationConfig.from_model_config(self.config)
            )
        self._forward = forward

    def to(self, device: str) -> ExportedModel:
        return self

    def eval(self) -> ExportedModel:
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert self._forward is not None
        return self._forward(input_ids, attention_mask)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.forward(input_ids, attention_mask))


def load_exported(
    folder: ModelFolder, tokenizer: Any, family: Family, layout_context: int | None, forward: Forward | None = None
) -> LoadedModel:
    """What an engine needs to know of the export in `folder`."""
    model = ExportedModel(folder, forward)
    return LoadedModel(model, tokenizer, family, layout_context=layout_context, device="cpu", precision="fp32")
