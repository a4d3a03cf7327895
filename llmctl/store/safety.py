"""Safety checks on a model or tokenizer folder before a library opens it: no code in it runs, no file outside is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from llmctl.errors import EnvironmentFault, IntegrityError

PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
"""File endings of weights that can run code when opened, or that llmctl does not read."""
LARGEST_SETTINGS: Final = 16_000_000
"""Largest file of settings, in bytes; published ones have some kilobytes."""
LARGEST_TABLE: Final = 100_000_000
"""Largest tokenizer, weight index or other list, in bytes; published ones have up to 40 MB."""
_OPENED: Final = (
    *(
        "config.",
        "generation_config.",
        "adapter_config.",
        "preprocessor_",
        "processor_",
        "model.safetensors.",
        "llmctl.",
    ),
    *("run.", "tokenizer", "special_tokens_map.", "added_tokens.", "chat_template.", "vocab.", "merges.", "spiece."),
    *("sentencepiece", "source.", "target."),
)
"""How the names of files begin that libraries read as a whole, in a model or tokenizer folder."""


def check_folder(folder: Path) -> None:
    """Raise `IntegrityError` for Python files, `auto_map` and links that leave the folder, `EnvironmentFault` for files
    that this user may not read."""
    root = folder.resolve()
    home = _home(root)
    for each in sorted(folder.iterdir()):
        try:
            inside = each.resolve(strict=each.is_symlink()).is_relative_to(home)
        except (OSError, RuntimeError) as error:  # Python 3.13 raises OSError for a loop
            raise IntegrityError("a link that leads nowhere", where=str(each), hint="remove it") from error
        if not inside:
            raise IntegrityError("a link that leaves the folder", where=str(each), hint="copy the file into the folder")
        if each.suffix == ".py":
            raise IntegrityError(
                "a Python file in a model folder; llmctl never runs it", where=str(each), hint="remove the file"
            )
        check_regular(each)
        if each.is_file() and not os.access(each, os.R_OK):
            raise no_permission(each)
        if each.suffix == ".jinja" or each.name.startswith(_OPENED):
            check_size(each, LARGEST_SETTINGS if each.suffix == ".jinja" else LARGEST_TABLE)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise IntegrityError(
                "auto_map would run code from the folder; llmctl never does", where=f"{folder / name}:auto_map"
            )


def check_regular(path: Path) -> None:
    """Raise `IntegrityError` for a pipe, socket or device, whose reader waits or never ends."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise IntegrityError("neither a file nor a folder", where=str(path), hint="remove it, or copy the folder again")


def check_size(path: Path, most: int) -> None:
    """Raise `IntegrityError` for a file of more than `most` bytes, which would fill the memory."""
    if path.is_file() and (size := path.stat().st_size) > most:
        raise IntegrityError(
            f"has {size:,} bytes; at most {most:,} are read", where=str(path), hint="copy the file again"
        )


def check_text(path: Path) -> None:
    """Raise `IntegrityError` for a file that is there and no text in UTF-8."""
    try:
        if path.is_file():
            path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"not UTF-8: {error}", where=str(path), hint="copy the file again") from error


def check_weights(folder: Path, wanted: str = "*.safetensors") -> None:
    """Raise `IntegrityError` if no file matches `wanted` (pickled weights are never used instead), or if a shard index
    names a file that is not in the folder."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index)
    shards = sorted(each.name for each in folder.glob("*-of-*.safetensors"))
    if shards and not any(folder.glob("*.safetensors.index.json")) and not (folder / "model.safetensors").is_file():
        raise IntegrityError(
            f"the index of the weights in parts is missing ({', '.join(shards[:3])})",
            where=str(folder / "model.safetensors.index.json"),
            hint="copy it into the folder",
        )
    if any(folder.glob(wanted)):
        return
    pickled = sorted(each.name for each in folder.iterdir() if each.name.endswith(PICKLED))
    if pickled and not any(folder.glob("*.safetensors")):
        raise IntegrityError(
            f"the weights are pickled ({', '.join(pickled)}); opening them could run code",
            where=str(folder),
            hint="if you trust them, convert them: save_pretrained of transformers 5 writes safetensors",
        )
    raise IntegrityError(f"no {wanted} in the folder", where=str(folder), hint="copy the weights into it")


def _check_index(path: Path) -> None:
    """Raise `IntegrityError` if a shard index names anything but files in its own folder."""
    shards = read_json(path, LARGEST_TABLE).get("weight_map")
    if not isinstance(shards, dict):
        raise IntegrityError("not a weight index: it has no weight_map", where=str(path))
    for name in sorted({str(each) for each in shards.values()}):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise IntegrityError(f"the index names {name!r}, which is not in this folder", where=str(path))


def _home(root: Path) -> Path:
    """Where links may point: inside the folder, or, in the hub's cache, into the `blobs` that snapshots share."""
    in_cache = root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir()
    return root.parent.parent if in_cache else root


def read_json(path: Path, most: int = LARGEST_SETTINGS) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes. Raises `IntegrityError` for anything else, `EnvironmentFault` without
    the permission."""
    try:
        check_regular(path)
        check_size(path, most)
        return parse_object(path.read_bytes(), path)
    except PermissionError as error:
        raise no_permission(path) from error
    except OSError as error:
        raise IntegrityError(f"cannot be read: {error.strerror}", where=str(path)) from error


def no_permission(path: Path) -> EnvironmentFault:
    """The error for a file or folder that this user may not read."""
    return EnvironmentFault("no permission to read it", where=str(path), hint=f"chmod u+r {path}, or ask its owner")


def parse_object(text: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object; `path` is its file, for messages. Raises `IntegrityError` for anything else."""
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise IntegrityError("not a JSON object", where=str(path))
    return value
