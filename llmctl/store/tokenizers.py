"""Finds, checks and copies the files of a tokenizer before any library opens them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from llmctl.errors import UsageError
from llmctl.registry import near_hub
from llmctl.store.model_config import check_config
from llmctl.store.safety import LARGEST_TABLE, check_folder, check_text, read_json
from llmctl.store.tokenizer_file import check_tokenizer_file

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
"""Files that a tokenizer may consist of; nothing else is copied from its folder."""


def find_tokenizer(path: Path) -> Path:
    """Locate the tokenizer in a tokenizer, model, run or prepared folder.

    Raises `UsageError` if there is none, `IntegrityError` if opening it would run code.
    """
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        hint = near_hub(path) or "name a tokenizer, model, run or prepared folder"
        raise UsageError(f"the tokenizer {path} {problem}", hint=hint)
    for folder in (path / "tokenizer", path / "model", path):
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            check_tokenizer(folder)
            return folder
    raise UsageError(f"no tokenizer in {path}", hint="a tokenizer folder has a tokenizer.json")


def check_tokenizer(folder: Path) -> None:
    """Check everything that opening the tokenizer reads. Raises `UsageError` if the folder has none, `IntegrityError` for
    what `check_folder`, `check_config` and `check_tokenizer_file` refuse."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(f"no tokenizer in {folder}", hint="a tokenizer folder has a tokenizer.json")
    check_folder(folder)
    check_config(folder, with_weights=False)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            read_json(folder / name, LARGEST_TABLE)
    check_text(folder / "chat_template.jinja")
    check_tokenizer_file(folder / "tokenizer.json")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files. Skips the sentencepiece models if there is a tokenizer.json, which replaces them."""
    has_json = (source / "tokenizer.json").is_file()
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and not (has_json and name.endswith((".model", ".spm"))):
            shutil.copyfile(source / name, folder / name)


def settings_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """`tokenizer_config.json` completed with the control tokens that other files define, and notes on substitutions.

    Raises `UsageError` if the tokenizer defines neither an eos_token nor a sep_token.
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
                f"the tokenizer of {folder} has no end-of-text token (eos_token or sep_token)",
                hint="add one to its tokenizer_config.json, or train a tokenizer: --tokenizer bpe",
            )
        settings["eos_token"] = settings["sep_token"]
        notes.append(f"the tokenizer has no eos_token: sep_token {_content(settings['sep_token'])} ends each text")
    if not settings.get("bos_token") and settings.get("cls_token"):
        settings["bos_token"] = settings["cls_token"]
    if not settings.get("pad_token"):
        settings["pad_token"] = settings["eos_token"]
        notes.append(
            f"the tokenizer has no pad_token: eos_token {_content(settings['eos_token'])} is used as padding, always masked"
        )
    settings.setdefault("tokenizer_class", "TokenizersBackend")
    return settings, notes


def uses_instruction(folder: Path) -> bool:
    """Whether a decoder with this tokenizer uses a prompt format with an instruction (`INSTRUCTION_FORMATS`): it has a
    chat template, or lacks <|sep|>. Agrees with `prompt_format_for` in `layout.py`, which needs the opened tokenizer."""
    settings, own = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if (folder / "chat_template.jinja").is_file() or (settings.is_file() and read_json(settings).get("chat_template")):
        return True
    added = read_json(own, LARGEST_TABLE).get("added_tokens", []) if own.is_file() else []
    return not any(token.get("content") == "<|sep|>" for token in added)


def template_source(folder: Path) -> str:
    """The source of the chat templates of a tokenizer's folder; empty if it has none."""
    own, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    stored = read_json(settings).get("chat_template") if settings.is_file() else None
    return stored if isinstance(stored, str) else json.dumps(stored or "")


def template_knows_tools(folder: Path) -> bool:
    """Whether a chat template of a tokenizer's folder mentions tools; most templates do not."""
    return "tool" in template_source(folder)


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)
