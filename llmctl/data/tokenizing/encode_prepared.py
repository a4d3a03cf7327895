"""Encodes prepared text with another tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmctl.data.spec import SPLITS
from llmctl.data.tokenizing.codes import codes_of
from llmctl.data.tokenizing.encode import Segmenting, TokenEncoder, encode_split
from llmctl.store.prepared import Prepared


def encode_prepared(prepared: Prepared, task: Segmenting, tokenizer: Any, out: Path) -> dict[str, int]:
    """Encode the text of a prepared folder again with an opened tokenizer, into `out`; returns tokens per split."""

    encoder, labels = TokenEncoder(codes_of(tokenizer)), prepared.manifest.labels
    return {
        split: encode_split(task, prepared.text(split), encoder, out, split, labels=labels).tokens for split in SPLITS
    }
