"""The files of a tokenizer: found, checked before they are opened, copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from llmctl.errors import UsageError
from llmctl.store.safety import check_folder, read_json

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
)
"""The files a tokenizer may be made of; nothing else of its folder is copied."""


def find_tokenizer(path: Path) -> Path:
    """The folder that holds the tokenizer of a tokenizer's, model's, run's or prepared folder.

    Raises `UsageError` where there is none, `IntegrityError` where opening it would run code.
    """
    if not path.is_dir():
        problem = "is no folder" if path.exists() else "does not exist"
        raise UsageError(
            f"the tokenizer {path} {problem}", hint="name a tokenizer's, model's, run's or prepared folder"
        )
    for folder in (path / "tokenizer", path / "model", path):
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            check_folder(folder)
            return folder
    raise UsageError(f"{path} holds no tokenizer", hint="a tokenizer's folder has a tokenizer.json")


def check_tokenizer(folder: Path) -> None:
    """Raise what `check_folder` does, and `UsageError` where there is no tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(f"{folder} holds no tokenizer", hint="a tokenizer's folder has a tokenizer.json")
    check_folder(folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer that there are; those that tokenizer.json was made of only where it is not there."""
    whole_form = (source / "tokenizer.json").is_file()
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and not (whole_form and name.endswith((".model", ".spm"))):
            shutil.copyfile(source / name, folder / name)


def settings_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """`tokenizer_config.json` with every control token that is used, wherever the folder names it; and what was decided.

    Raises `UsageError` where no token ends a text.
    """
    path, older = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    settings = read_json(path) if path.is_file() else {}
    for name, token in (read_json(older) if older.is_file() else {}).items():
        if name.endswith("_token"):
            settings.setdefault(name, token)
    notes = []
    if not settings.get("eos_token"):
        if not settings.get("sep_token"):
            raise UsageError(
                f"the tokenizer of {folder} has no token that ends a text (eos_token or sep_token)",
                hint="name one in its tokenizer_config.json, or train a tokenizer: --tokenizer bpe",
            )
        settings["eos_token"] = settings["sep_token"]
        notes.append(f"the tokenizer has no eos_token: its sep_token {_spelt(settings['sep_token'])} ends a text")
    if not settings.get("bos_token") and settings.get("cls_token"):
        settings["bos_token"] = settings["cls_token"]
    if not settings.get("pad_token"):
        settings["pad_token"] = settings["eos_token"]
        notes.append(
            f"the tokenizer has no pad_token: its eos_token {_spelt(settings['eos_token'])} pads, always masked"
        )
    settings.setdefault("tokenizer_class", "TokenizersBackend")
    return settings, notes


def uses_instruction(folder: Path) -> bool:
    """Whether a decoder with this tokenizer is told in words what to do (`TOLD`): by its chat template, or because it
    knows no <|sep|>. `prompt_format_for` of `layout.py` says the same of an opened tokenizer."""
    settings, own = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if (folder / "chat_template.jinja").is_file() or (settings.is_file() and read_json(settings).get("chat_template")):
        return True
    added = read_json(own).get("added_tokens", []) if own.is_file() else []
    return not any(token.get("content") == "<|sep|>" for token in added)


def _spelt(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)
