"""A GGUF file (llama.cpp's format) as a model folder: quantised blocks become the float32 numbers that they stand for."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmctl.errors import IntegrityError, UsageError
from llmctl.models import pretrained

_LIES: Final = (AttributeError, IndexError, KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError)
"""What readers raise where a file's numbers lie: errors of UTF-8 and of numpy are among them."""


def convert(file: Path, folder: Path) -> None:
    """Write the model and the tokenizer of `file` into `folder`, in the Hugging Face layout.

    Raises `UsageError` for an architecture that transformers does not read from GGUF as a decoder, `IntegrityError` for
    a file that is not what it says.
    """
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    architecture = _architecture(file)
    with pretrained.quiet():
        try:
            config = AutoConfig.from_pretrained(file.parent, **options)
            AutoModelForCausalLM._model_mapping[type(config)]
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"transformers reads no decoder of the architecture {architecture!r} from GGUF",
                where=str(file),
                hint="name the model's folder of safetensors",
            ) from error
        with _read(file), contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing else turns off
            model, info = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    lost = [f"{len(keys)} {kind}: {', '.join(sorted(map(str, keys))[:5])}" for kind, keys in info.items() if keys]
    if lost:
        raise IntegrityError(f"the tensors do not fit the model: {'; '.join(lost)}", where=str(file))
    # The weights are plain numbers now; with these two transformers would take them for blocks and refuse to save.
    del model.config.quantization_config
    model.hf_quantizer = None
    pretrained.save(model, folder)
    tokenizer.save_pretrained(folder)
    _drop_foreign_tokens(folder / "tokenizer.json", model.config.vocab_size)


def _drop_foreign_tokens(path: Path, vocabulary: int) -> None:
    """Control tokens that the file has not: transformers gives a byte-level tokenizer the <|endoftext|> of GPT-2, whose
    id the model would not know."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["added_tokens"] = [each for each in document["added_tokens"] if each["id"] < vocabulary]
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")


def _architecture(file: Path) -> str:
    from gguf import GGUFReader

    with _read(file):
        field = GGUFReader(file).fields["general.architecture"]
        return str(bytes(field.parts[field.data[0]]), encoding="utf-8")


@contextlib.contextmanager
def _read(file: Path) -> Iterator[None]:
    try:
        yield
    except (*_LIES, struct.error) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"the GGUF file cannot be read: {first}", where=str(file)) from error
