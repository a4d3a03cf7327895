"""Resolves references to pretrained weights: a run, a model folder, `hf:ID`, a GGUF file, an adapter with its base."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from llmctl import registry
from llmctl.errors import EnvironmentFault, IntegrityError, MissingPackage, UsageError
from llmctl.models import hub
from llmctl.models.spec import HUB, SERVER
from llmctl.readable import quoted
from llmctl.store import atomic
from llmctl.store.adapters import check_installed
from llmctl.store.exports import EXPORT
from llmctl.store.models import CARD, GENERATION, ModelFolder, content_hash, open_model, read_card, write_card
from llmctl.store.tokenizers import TOKENIZER_FILES
from llmctl.types import Event, EventSink, null_sink

GGUF: Final = ".gguf"
MAGIC: Final = b"GGUF"
CONVERSION: Final = 1
"""Version of the GGUF conversion; increased when the same file converts to a different folder."""
PARENT, PARENT_PATH = "model", "model_path"
"""Keys of an adapter's base in the `parents` of its card: its content hash and its path."""


def open_weights(
    reference: str,
    *,
    base: Path | None = None,
    offline: bool = False,
    verify: bool = False,
    emit: EventSink = null_sink,
) -> ModelFolder:
    """Inspect pretrained weights. Imports nothing heavy unless a GGUF file must be converted.

    An adapter's base is opened at the path in its card (or at `base`) and must be identical, byte for byte; the base
    named in the adapter's own config is never used. `verify`: see `open_model`. Raises what `open_model` and `hub.folder`
    raise, `UsageError` if the base is missing, `IntegrityError` if it has changed.
    """
    folder = open_model(local_folder(reference, offline=offline, emit=emit), verify=verify)
    if folder.adapter is None:
        if base is not None:
            raise UsageError(f"{reference} is not an adapter and has no base", hint="remove the setting base")
        return folder
    check_installed()
    recorded = folder.card.parents if folder.card else {}
    if base is None and PARENT_PATH not in recorded:
        raise UsageError(
            f"{folder.path} is an adapter that llmctl did not create: its base model is unknown",
            hint="specify the folder of its base: --set base=DIR",
        )
    place = base or Path(recorded[PARENT_PATH])
    if not place.exists():
        raise UsageError(
            f"the base of the adapter {folder.path} is missing: {place}",
            hint="restore it, or specify its new location: --set base=DIR",
        )
    found = open_model(converted(place.expanduser(), emit), verify=verify)
    if found.adapter is not None:
        raise UsageError(
            f"the base {place} is itself an adapter", hint=f"merge it first: llmctl merge {quoted(place)} --out DIR"
        )
    if PARENT in recorded and content_hash(found.path) != recorded[PARENT]:
        raise IntegrityError(
            f"{found.path} is not the base that the adapter was trained on: its hash differs",
            where=str(folder.path),
            hint="restore the original base, or specify it: --set base=DIR",
        )
    return replace(folder, config=found.config, base=found.path)


def local_folder(reference: str, *, offline: bool = False, emit: EventSink = null_sink) -> Path:
    """The local folder of a run, a model, `hf:ID` or a converted GGUF file.

    Raises `UsageError` for the name of an architecture, which has no weights.
    """
    if reference.startswith(HUB):
        return hub.folder(reference, offline=offline)
    if reference.startswith(SERVER):
        raise UsageError(f"{reference} is behind a server, which answers but does not give its weights")
    if not registry.looks_like_path(reference):
        raise UsageError(
            f"{reference} is an untrained architecture",
            hint=f"train it (llmctl train --model {reference}) and use the run",
        )
    return converted(Path(reference).expanduser(), emit)


def is_costly(reference: str) -> bool:
    """Whether inspecting the weights may need a download or a conversion, which a command with known errors skips."""
    path = Path(reference).expanduser()
    return reference.startswith(HUB) or path.suffix == GGUF or (path.is_dir() and any(path.glob(f"*{GGUF}")))


def converted(path: Path, emit: EventSink = null_sink) -> Path:
    """The safetensors folder converted from a GGUF file, created once and cached; any other path unchanged."""
    file = gguf_file(path)
    if file is None:
        return path
    folder = _cache() / f"{_key(file)}-{CONVERSION}"
    if folder.is_dir():
        emit(Event("note", {"text": f"using the safetensors conversion of {file} in {folder}"}))
        return folder
    atomic.check_writable(folder, bytes_needed=file.stat().st_size)
    emit(Event("note", {"text": f"converting {file} to safetensors in float32, kept in {folder}"}))
    with atomic.atomic_folder(folder, force=True) as made:
        convert(file, made)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Convert a GGUF file to a model folder, with the card and the tokenizer beside it if it is an export.

    Raises `MissingPackage` without gguf, and what `gguf.convert` raises.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage("gguf", needed_for="a GGUF file", install="pip install 'llmctl[gguf]'")
    from llmctl.models import gguf

    card = read_card(file.parent) if (file.parent / EXPORT).is_file() else None
    gguf.convert(file, folder)
    if card is not None:
        for name in _beside(file):
            shutil.copyfile(file.parent / name, folder / name)
        write_card(folder, card)


def _beside(file: Path) -> list[str]:
    """The files of an export beside its GGUF file that say how the model is prompted."""
    if not (file.parent / EXPORT).is_file():
        return []
    return [name for name in (*TOKENIZER_FILES, GENERATION) if (file.parent / name).is_file()]


def _key(file: Path) -> str:
    """A name for the conversion of a file, from the content of all that it depends on."""
    own = atomic.sha256(file)
    beside = [file.parent / name for name in (*_beside(file), CARD)] if _beside(file) else []
    if beside:
        own = hashlib.sha256(
            "".join([own, *(atomic.sha256(each) for each in beside if each.is_file())]).encode()
        ).hexdigest()
    return own[:32]


def gguf_file(path: Path) -> Path | None:
    """The GGUF file at a path: the file itself, or the only one in a folder without another kind of model; else None.

    Raises `UsageError` for a folder with several, `IntegrityError` for a file that is not GGUF.
    """
    file = path
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix == GGUF)
        if not files or any((path / name).exists() for name in ("config.json", "adapter_config.json", "run.json")):
            return None
        if len(files) > 1:
            raise UsageError(
                f"{path} holds {len(files)} GGUF files",
                hint=f"specify one: {', '.join(each.name for each in files[:5])}",
            )
        [file] = files
    if file.suffix != GGUF or not file.is_file():
        return None
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise IntegrityError("not a GGUF file: its first four bytes are not GGUF", where=str(file))
    return file


def _cache() -> Path:
    """The folder of conversions, in the user's cache (XDG Base Directory Specification)."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise EnvironmentFault("no home folder to cache a converted GGUF file in", hint="set XDG_CACHE_HOME")
    return root / "llmctl" / "gguf"
