"""The check of a model's or tokenizer's folder before a library opens it: nothing of it is run, nothing outside is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from llmctl.errors import IntegrityError

PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
"""Endings of weights that run code or that we do not read."""


def check_folder(folder: Path) -> None:
    """Raise `IntegrityError` for Python files, `auto_map` and links that lead out of the folder."""
    root = folder.resolve()
    home = _home(root)
    for each in sorted(folder.iterdir()):
        if not each.resolve().is_relative_to(home):
            raise IntegrityError("leads out of the folder", where=str(each), hint="copy the file into it")
        if each.suffix == ".py":
            raise IntegrityError(
                "a Python file in a model folder is never run", where=str(each), hint="remove it if not needed"
            )
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise IntegrityError(
                "auto_map asks for code of its own to be run; llmctl never does", where=f"{folder / name}:auto_map"
            )


def check_weights(folder: Path, wanted: str = "*.safetensors") -> None:
    """Raise `IntegrityError` where `wanted` is not there (pickled weights beside it are not opened in its place), or
    where an index of shards names what is no file of the folder."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index)
    if any(folder.glob(wanted)):
        return
    pickled = sorted(each.name for each in folder.iterdir() if each.name.endswith(PICKLED))
    if pickled and not any(folder.glob("*.safetensors")):
        raise IntegrityError(
            f"the weights are pickled ({', '.join(pickled)}), opening them could run code",
            where=str(folder),
            hint="convert them where you trust them: save_pretrained of transformers 5 writes safetensors",
        )
    raise IntegrityError(f"no {wanted} in the folder", where=str(folder), hint="copy the weights into it")


def _check_index(path: Path) -> None:
    """An index of shards names files of its own folder only."""
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict):
        raise IntegrityError("not an index of weights: it has no weight_map", where=str(path))
    for name in sorted({str(each) for each in shards.values()}):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise IntegrityError(f"the index names {name!r}, no file of this folder", where=str(path))


def _home(root: Path) -> Path:
    """Where the links of a folder may lead: into itself, or, in the hub's cache, into the `blobs` that `snapshots` share."""
    in_cache = root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir()
    return root.parent.parent if in_cache else root


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `IntegrityError` for anything else."""
    try:
        return parse_object(path.read_bytes(), path)
    except OSError as error:
        raise IntegrityError(f"cannot be read: {error.strerror}", where=str(path)) from error


def parse_object(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that bytes of `path` are. Raises `IntegrityError` for anything else."""
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise IntegrityError("is no JSON object", where=str(path))
    return value
