"""A model folder in the Hugging Face layout, looked at by its file names and JSON alone, before weights are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.registry import near_path
from llmctl.store import adapters, atomic
from llmctl.store.safety import check_folder, check_weights, parse_object, read_json

CARD: Final = "llmctl.json"
CARD_VERSION: Final = 1


_WRITER: Final = frozenset(["transformers_version", "_name_or_path", "_model_name_or_path"])
"""What a config says of the program and the place that it comes from, not of the model."""

LONGEST_HEAD: Final = 100_000_000
"""Bytes of JSON at the head of a safetensors file, by its format's rule."""


class Card(Spec):
    """`llmctl.json`: how this model was taught to be asked, so that every later verb asks the same way."""

    renamed: ClassVar[Mapping[str, str]] = {"corruption": "noise_density"}

    version: int = CARD_VERSION
    task: str
    task_version: int = 1
    family: str
    style: str
    """How segments become tokens: see `data/layout.py`."""
    instruction: str = ""
    """What it was told to do, where the style tells it."""
    labels: tuple[str, ...] = ()
    block_size: int | None = None
    """Tokens of the blocks that were learned: how far back the model was taught to look."""
    noise_density: float | None = Field(None, gt=0, lt=1)
    """Share of the tokens of plain text that were corrupted; None: the published share, or plain text was not denoised."""
    clean: dict[str, Any] | None = None
    """How text was cleaned before it was learned (`data/spec.py:Clean`), so that what is asked is cleaned alike."""
    parents: dict[str, str] = {}
    """Where it came from: `data` and `model`, by content hash."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder found sound: `card` is None where llmctl did not make it."""

    path: Path
    config: dict[str, Any]
    card: Card | None
    has_tokenizer: bool
    has_chat_template: bool
    adapter: adapters.LoraFile | None = None
    """What the folder holds where it is no model of its own."""
    base: Path | None = None
    """The model folder that the adapter stands on, once it is found; `config` then is the base's."""

    @property
    def architecture(self) -> Path:
        """The folder whose config.json describes the model."""
        return self.base or self.path


def model_path(path: Path) -> Path:
    """The model folder of a run, or the folder itself. Raises `UsageError` where there is no model."""
    if not path.exists():
        hint = near_path(path) or "name a run (llmctl runs list), a model folder or hf:ID"
        raise UsageError(f"no such model folder: {path}", hint=hint)
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file() or (candidate / adapters.CONFIG).is_file():
            return candidate
    if (path / "run.json").is_file():
        raise UsageError(f"the run {path} has no model yet", hint=f"finish it: llmctl train --resume {path}")
    raise UsageError(f"{path} is no model folder: it has no config.json", hint="name a run or a Hugging Face folder")


def open_model(path: Path) -> ModelFolder:
    """Look at a run's or a plain model folder and refuse what would run code or lead outside.

    Raises `UsageError` (2) where there is none, `IntegrityError` (5) for pickled weights without safetensors beside,
    Python files, `auto_map`, links out of the folder, index files that point outside.
    """
    folder = model_path(path)
    check_folder(folder)
    config = folder / adapters.CONFIG
    adapter = adapters.parse(read_json(config), config) if is_adapter(folder) else None
    check_weights(folder, adapters.WEIGHTS if adapter else "*.safetensors")
    tokenizer = folder / "tokenizer_config.json"
    settings = read_json(tokenizer) if tokenizer.is_file() else {}
    return ModelFolder(
        path=folder,
        config=read_json(folder / "config.json") if adapter is None else {},
        card=_card(folder),
        has_tokenizer=tokenizer.is_file() or (folder / "tokenizer.json").is_file(),
        has_chat_template="chat_template" in settings or (folder / "chat_template.jinja").is_file(),
        adapter=adapter,
    )


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter. Raises `IntegrityError` for one that holds a model of its own beside it:
    programs differ in which of the two they open."""
    if not (folder / adapters.CONFIG).is_file():
        return False
    if (folder / "config.json").is_file():
        raise IntegrityError(
            "both a model (config.json) and an adapter (adapter_config.json)",
            where=str(folder),
            hint="keep them in folders of their own",
        )
    return True


def content_hash(folder: Path) -> str:
    """Hash of all that a model folder computes with: its config (whichever version wrote it) and its weights."""
    config = {name: value for name, value in read_json(folder / "config.json").items() if name not in _WRITER}
    lines = [json.dumps(config, sort_keys=True)]
    lines += [f"{atomic.sha256(each)}  {each.name}" for each in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a model folder, from the heads of its files, which are read alone.

    Raises `IntegrityError` for a head that lies.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(LONGEST_HEAD, path.stat().st_size - 8):
                raise IntegrityError("its head says that it is longer than it can be", where=str(path))
            head = parse_object(file.read(size), path)
        found |= {name: tuple(each["shape"]) for name, each in head.items() if _has_shape(each)}
    return found


def _has_shape(entry: Any) -> bool:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)


def write_card(folder: Path, card: Card) -> None:
    atomic.write_json(folder / CARD, card.model_dump())


def _card(folder: Path) -> Card | None:
    path = folder / CARD
    if not path.is_file():
        return None
    value = read_json(path)
    if value.get("version") != CARD_VERSION:
        raise IntegrityError(
            f"version {value.get('version')!r} is not known, this llmctl reads {CARD_VERSION}",
            where=f"{path}:version",
            hint="pip install --upgrade llmctl",
        )
    try:
        return Card.model_validate(value)
    except ValueError as error:
        raise IntegrityError("not what llmctl wrote", where=str(path)) from error
