"""Conversion of a GGUF file (llama.cpp's format) to a model folder: dequantises its weights to float32."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmctl.errors import IntegrityError, UsageError
from llmctl.models import pretrained
from llmctl.models.gguf_header import check_header
from llmctl.store.border import border, quiet


def convert(file: Path, folder: Path) -> None:
    """Write the model and the tokenizer of `file` into `folder`, in the Hugging Face layout.

    Raises `UsageError` for an architecture that transformers cannot read from GGUF as a decoder, `IntegrityError` for a
    corrupt file.
    """
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    check_header(file)
    architecture = _architecture(file)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(file.parent, **options)
            AutoModelForCausalLM._model_mapping[type(config)]
            _complete(config, file, architecture)
        except Exception as error:
            raise UsageError(
                f"transformers cannot read the architecture {architecture!r} from GGUF as a decoder",
                where=str(file),
                hint="use the model in safetensors format instead",
            ) from error
        with _read(file), contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be disabled
            model, info = AutoModelForCausalLM.from_pretrained(
                file.parent, config=config, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    lost = [f"{len(keys)} {kind}: {', '.join(sorted(map(str, keys))[:5])}" for kind, keys in info.items() if keys]
    if lost:
        raise IntegrityError(f"the tensors do not fit the model: {'; '.join(lost)}", where=str(file))
    # The weights are no longer quantised; with these two set, transformers would refuse to save them.
    del model.config.quantization_config
    model.hf_quantizer = None
    pretrained.save(model, folder)
    tokenizer.save_pretrained(folder)
    _drop_foreign_tokens(folder / "tokenizer.json", model.config.vocab_size)


def _complete(config: Any, file: Path, architecture: str) -> None:
    """Set what transformers does not read: the width of a head where it is not hidden / heads, and for GPT-2 the width of
    the MLP and the context, which it reads under other names."""
    from gguf import GGUFReader

    if config.model_type == "gpt2":
        config.n_inner, config.n_positions = config.feed_forward_length, config.n_ctx
    field = GGUFReader(file).fields.get(f"{architecture}.attention.key_length")
    if field is not None and hasattr(config, "head_dim"):
        config.head_dim = int(field.contents())


def _drop_foreign_tokens(path: Path, vocabulary: int) -> None:
    """Remove control tokens that the file does not define: transformers adds GPT-2's <|endoftext|> to a byte-level
    tokenizer, with an id outside the model's vocabulary."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["added_tokens"] = [each for each in document["added_tokens"] if each["id"] < vocabulary]
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")


def _architecture(file: Path) -> str:
    from gguf import GGUFReader

    with _read(file):
        field = GGUFReader(file).fields["general.architecture"]
        return str(bytes(field.parts[field.data[0]]), encoding="utf-8")


def _read(file: Path) -> contextlib.AbstractContextManager[None]:
    return border("the GGUF file cannot be read", file)
