"""What each format is written from: the model with its adapter merged, the tokenizer, and how training prompted it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from llmctl.data.examples.layout import Layout
from llmctl.errors import UsageError
from llmctl.models.exports.table import FormatName, Quantization
from llmctl.store import atomic
from llmctl.store.exports import SOURCE
from llmctl.store.model_config import CONFIG, GENERATION
from llmctl.workflows.export.modelfile import end_ids, ollama
from llmctl.workflows.inference.model import ModelHandle
from llmctl.workflows.inference.session import load_model

WHISPER: Final = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")
"""Control tokens that CTranslate2 looks up by name in the vocabulary of a Whisper."""


def write(
    to: FormatName, handle: ModelHandle, layout: Layout, folder: Path, quantize: Quantization, *, name: str
) -> list[Path]:
    """Write the files of a format into `folder`; returns those that hold weights.

    Raises `UsageError`, in one line, for a tokenizer that the format cannot hold.
    """
    return {"gguf": _gguf, "ctranslate2": _ctranslate2, "onnx": _onnx}[to](handle, layout, folder, quantize, name)


def _gguf(handle: ModelHandle, layout: Layout, folder: Path, quantize: Quantization, name: str) -> list[Path]:
    from llmctl.models.exports import gguf
    from llmctl.models.exports.gguf_tokenizer import vocabulary_of

    tokenizer = layout.tokenizer
    vocabulary = vocabulary_of(tokenizer, handle.folder.config["vocab_size"], layout.encode)
    model = load_model(handle, "fp32")
    template = tokenizer.chat_template or (layout.chat_template() if handle.task.answer_role == "assistant" else None)
    ends = end_ids(layout, model.generation_config)
    ids = {
        role: number
        for role in ("bos", "unk", "sep", "pad", "mask")
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None
    }
    prompts = gguf.GgufPrompts(
        ids={**ids, "eos": ends[0], **({"eot": ends[1]} if len(ends) > 1 else {})},
        add_bos=template is None and tokenizer.bos_token_id is not None,
        chat_template=template,
    )
    file = folder / f"model-{quantize}.gguf"
    gguf.write(model, file, name=name, vocabulary=vocabulary, prompts=prompts, quantize=quantize)
    atomic.write_text(folder / "Modelfile", ollama(handle, layout, file.name, ends, add_bos=prompts.add_bos))
    _copy(handle, folder, GENERATION)
    return [file]


def _ctranslate2(handle: ModelHandle, layout: Layout, folder: Path, quantize: Quantization, name: str) -> list[Path]:
    from llmctl.models.exports import ctranslate2

    if handle.family == "speech-seq2seq":
        absent = [each for each in WHISPER if layout.tokenizer.backend_tokenizer.token_to_id(each) is None]
        if absent:
            raise UsageError(
                f"CTranslate2 runs a Whisper by its control tokens, and this tokenizer lacks {', '.join(absent)}"
            )
    model = load_model(handle, "fp32")
    (folder / SOURCE).mkdir()
    _copy(handle, folder / SOURCE, CONFIG, GENERATION)
    return ctranslate2.write(model, layout.tokenizer, folder, quantize=quantize)


def _onnx(handle: ModelHandle, layout: Layout, folder: Path, quantize: Quantization, name: str) -> list[Path]:
    from llmctl.models.exports import onnx

    files = onnx.write(load_model(handle, "fp32"), folder, family=handle.family, quantize=quantize)
    _copy(handle, folder, CONFIG, GENERATION)
    return files


def _copy(handle: ModelHandle, folder: Path, *names: str) -> None:
    for name in names:
        if (handle.folder.architecture / name).is_file():
            shutil.copyfile(handle.folder.architecture / name, folder / name)
