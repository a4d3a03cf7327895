"""The files of a tokenizer."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "added_tokens.json",
)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The files of a tokenizer, those that there are."""
    for name in TOKENIZER_FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source / name, folder / name)
