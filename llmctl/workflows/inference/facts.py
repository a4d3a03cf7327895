"""What must be equal for likelihoods to compare; part of the signature of a score."""

from __future__ import annotations

import hashlib
from typing import Any

from llmctl.store import atomic
from llmctl.store.models import ModelFolder


def likelihood_facts(
    folder: ModelFolder, tokenizer: Any, *, window: int, stride: int, precision: str
) -> dict[str, str]:
    """`window`, `stride`: in tokens."""
    return {
        "tok": _tokenizer_hash(folder, tokenizer),
        "window": str(window),
        "stride": str(stride),
        "precision": precision,
    }


def _tokenizer_hash(folder: ModelFolder, tokenizer: Any) -> str:
    """Hash of tokenizer.json; for older formats without it, of the tokenizer as transformers converts it."""
    path = folder.path / "tokenizer.json"
    if path.is_file():
        return atomic.sha256(path)[:8]
    text: str = tokenizer.backend_tokenizer.to_str()
    return short_hash(text)


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
