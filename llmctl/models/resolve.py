"""The one door to given weights: a run, a model folder, `hf:ID`, a GGUF file, an adapter with its base."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from llmctl import registry
from llmctl.errors import EnvironmentFault, IntegrityError, MissingPackage, UsageError
from llmctl.models import hub
from llmctl.models.spec import HUB
from llmctl.store import atomic
from llmctl.store.adapters import check_installed
from llmctl.store.models import ModelFolder, content_hash, open_model
from llmctl.types import Event, EventSink, null_sink

GGUF: Final = ".gguf"
MAGIC: Final = b"GGUF"
CONVERSION: Final = 1
"""Of GGUF files: another number where another folder comes out of the same file."""
PARENT, PARENT_PATH = "model", "model_path"
"""An adapter's base among the `parents` of its card: its content hash, and where it was."""


def open_weights(
    reference: str, *, base: Path | None = None, offline: bool = False, emit: EventSink = null_sink
) -> ModelFolder:
    """Look at given weights; nothing heavy is imported, unless a GGUF file is to be converted.

    An adapter's base is found where its card says (or at `base`) and must be the same, byte for byte; what the
    adapter's config names as its base is never looked for. Raises what `open_model` and `hub.folder` do, `UsageError`
    where the base is gone, `IntegrityError` where it has changed.
    """
    folder = open_model(local_folder(reference, offline=offline, emit=emit))
    if folder.adapter is None:
        if base is not None:
            raise UsageError(f"{reference} is no adapter: it stands on no base", hint="leave base out")
        return folder
    check_installed()
    recorded = folder.card.parents if folder.card else {}
    if base is None and PARENT_PATH not in recorded:
        raise UsageError(
            f"{folder.path} is an adapter that llmctl did not make: what it stands on is not known here",
            hint="name the folder of its base: --set base=DIR",
        )
    place = base or Path(recorded[PARENT_PATH])
    if not place.exists():
        raise UsageError(
            f"the base of the adapter {folder.path} is gone: {place}",
            hint="put it back, or name where it is now: --set base=DIR",
        )
    found = open_model(converted(place.expanduser(), emit))
    if found.adapter is not None:
        raise UsageError(f"{place} is an adapter itself", hint=f"merge it first: llmctl merge {place} --out DIR")
    if PARENT in recorded and content_hash(found.path) != recorded[PARENT]:
        raise IntegrityError(
            f"{found.path} is not the base that the adapter was trained on: its hash differs",
            where=str(folder.path),
            hint="bring the old one back, or name it: --set base=DIR",
        )
    return replace(folder, config=found.config, base=found.path)


def local_folder(reference: str, *, offline: bool = False, emit: EventSink = null_sink) -> Path:
    """The folder of a run, of a model, of `hf:ID`, of a GGUF file converted.

    Raises `UsageError` for an architecture, which has no weights.
    """
    if reference.startswith(HUB):
        return hub.folder(reference, offline=offline)
    if not registry.looks_like_path(reference):
        raise UsageError(
            f"{reference} is an architecture without weights: there is nothing to ask yet",
            hint=f"train it (llmctl train --model {reference}) and name the run",
        )
    return converted(Path(reference).expanduser(), emit)


def is_costly(reference: str) -> bool:
    """Whether to look at given weights takes a download or a conversion: not for a command that is wrong already."""
    path = Path(reference).expanduser()
    return reference.startswith(HUB) or path.suffix == GGUF or (path.is_dir() and any(path.glob(f"*{GGUF}")))


def converted(path: Path, emit: EventSink = null_sink) -> Path:
    """The folder of safetensors that a GGUF file stands for, made once and kept; any other path as it is."""
    file = gguf_file(path)
    if file is None:
        return path
    folder = _cache() / f"{atomic.sha256(file)[:32]}-{CONVERSION}"
    if folder.is_dir():
        emit(Event("note", {"text": f"{file} as safetensors: {folder}"}))
        return folder
    atomic.check_writable(folder, bytes_needed=file.stat().st_size)
    emit(Event("note", {"text": f"converting {file} to safetensors in float32, kept in {folder}"}))
    with atomic.atomic_folder(folder, force=True) as made:
        convert(file, made)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Fill a folder with the model of a GGUF file. Raises `MissingPackage` without gguf, and what converting does."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage("gguf", needed_for="a GGUF file", install="pip install 'llmctl[gguf]'")
    from llmctl.models import gguf

    gguf.convert(file, folder)


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the one in a folder that holds no model of another kind.

    Raises `UsageError` for a folder of several, `IntegrityError` for a file that is none.
    """
    file = path
    if path.is_dir():
        held = sorted(each for each in path.iterdir() if each.suffix == GGUF)
        if not held or any((path / name).exists() for name in ("config.json", "adapter_config.json", "run.json")):
            return None
        if len(held) > 1:
            raise UsageError(
                f"{path} holds {len(held)} GGUF files", hint=f"name one: {', '.join(each.name for each in held[:5])}"
            )
        [file] = held
    if file.suffix != GGUF or not file.is_file():
        return None
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise IntegrityError("no GGUF file: its first four bytes are not GGUF", where=str(file))
    return file


def _cache() -> Path:
    """Where conversions are kept: the user's cache, after the XDG base directories."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise EnvironmentFault("no home folder to keep a converted GGUF file in", hint="set XDG_CACHE_HOME")
    return root / "llmctl" / "gguf"
