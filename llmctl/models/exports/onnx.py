"""Writes a model as ONNX, by transformers' own exporter: one graph of an encoder; of a decoder, one that reads a prompt and
one that reads the next token with keys and values of those before it.

The exporter is young (transformers 5.23): it is used here only, and its files are read by ONNX Runtime alone.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from llmctl.models.exports.table import Quantization
from llmctl.store.border import border, quiet

TRACED: Final = (2, 7)
"""Rows and tokens of the example: sizes of 0 and 1 would be taken as constants."""
_LOUD: Final = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")


def write(model: PreTrainedModel, folder: Path, *, family: str, quantize: Quantization) -> list[Path]:
    """Write the graphs and their weights into `folder`; returns all these files."""
    ids = torch.arange(TRACED[0] * TRACED[1]).reshape(TRACED) % 5 + 5
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with _silence(), torch.no_grad(), border("the model cannot be exported to ONNX", folder):
        if family == "encoder":
            sizes = {0: Dim("rows"), 1: Dim("tokens", max=model.config.max_position_embeddings)}
            made = OnnxExporter().export(model, inputs, OnnxConfig(dynamic_shapes=dict.fromkeys(inputs, sizes)))
        else:
            made = OnnxExporter().export_for_generation(model, inputs, OnnxConfig(dynamic=True))
        made.save_pretrained(folder)
    if quantize == "int8":
        for graph in sorted(folder.glob("*.onnx")):
            _quantize(graph)
    return sorted(each for each in folder.iterdir() if ".onnx" in each.name)


def _quantize(graph: Path) -> None:
    """Weights of matrix products as 8-bit integers; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = graph.with_suffix(".int8")
    with _silence():
        quantize_dynamic(graph, smaller, weight_type=QuantType.QInt8)
    graph.with_name(f"{graph.name}.data").unlink(missing_ok=True)
    smaller.rename(graph)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the progress and the warnings of the exporter: what it made is verified instead."""
    import contextlib
    import io

    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.disable(logging.WARNING)
    try:
        with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
