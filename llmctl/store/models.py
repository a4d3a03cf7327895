"""Model folders in the Hugging Face format, checked by file names and JSON alone, before any weights are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field, StrictInt, ValidationError

from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.readable import quoted
from llmctl.registry import near_hub, near_path
from llmctl.store import adapters, atomic, integrity
from llmctl.store.exports import SOURCE, Export, read_export
from llmctl.store.model_config import check_config
from llmctl.store.safety import check_folder, check_weights, read_json

CARD: Final = "llmctl.json"
CARD_VERSION: Final = 1
GENERATION: Final = "generation_config.json"


_WRITER: Final = frozenset(["transformers_version", "_name_or_path", "_model_name_or_path"])
"""Config keys that describe the program and path that wrote it, not the model."""


class Card(Spec):
    """`llmctl.json`: how the model was trained to be prompted, so that every later verb prompts it the same way."""

    renamed: ClassVar[Mapping[str, str]] = {"corruption": "noise_density"}

    version: int = CARD_VERSION
    task: str
    task_version: StrictInt = Field(1, ge=1)
    family: str
    style: str
    """Prompt format; see `data/examples/layout.py`."""
    instruction: str = ""
    """Instruction that it was trained with, for the prompt formats that use one."""
    labels: tuple[str, ...] = ()
    block_size: StrictInt | None = Field(None, ge=1)
    """Block size in tokens of the training data: the longest context that the model was trained on."""
    noise_density: float | None = Field(None, gt=0, lt=1)
    """Noise density: fraction of tokens masked or corrupted in pre-training; None: the published value, or no noise."""
    preference: dict[str, Any] | None = None
    """The settings of preference tuning (`training/spec.py:Dpo`), if it was trained on pairs; its reference model is the
    parent `model`, which `parents` also names by path."""
    clean: dict[str, Any] | None = None
    """How the training text was cleaned (`data/spec.py:Clean`), so that prompts are cleaned the same way."""
    parents: dict[str, str] = {}
    """Content hashes of what it was made from: `data` and `model`."""
    files: dict[str, integrity.FileHash] = {}
    """Size and hash of each file of weights, checked when the model is opened; empty if version 0.1 wrote the card."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder that passed the checks. `card` is None if llmctl did not make it."""

    path: Path
    config: dict[str, Any]
    card: Card | None
    has_tokenizer: bool
    has_chat_template: bool
    adapter: adapters.LoraFile | None = None
    """Set if the folder holds an adapter instead of a full model."""
    base: Path | None = None
    """The adapter's base model folder, once located; `config` is then the base model's."""
    export: Export | None = None
    """Set if `llmctl export` made the folder for another program."""

    @property
    def architecture(self) -> Path:
        """The folder whose config.json describes the model."""
        return self.base or (_described(self.path) if self.export else self.path)


def model_path(path: Path) -> Path:
    """The model folder of a run, or the folder itself. Raises `UsageError` if there is no model."""
    if not path.exists():
        hint = near_hub(path) or near_path(path) or "name a run (llmctl runs list), a model folder or hf:ID"
        raise UsageError(f"no such model folder: {path}", hint=hint)
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file() or (candidate / adapters.CONFIG).is_file():
            return candidate
    if (path / "run.json").is_file():
        raise UsageError(f"the run {path} has no model yet", hint=f"resume it: llmctl train --resume {quoted(path)}")
    raise UsageError(
        f"{path} is not a model folder: it has no config.json", hint="name a run or a Hugging Face model folder"
    )


def open_model(path: Path, *, verify: bool = False) -> ModelFolder:
    """Open the model folder of a run, or a plain model folder; refuse one that would run code or read other folders.

    `verify`: hash the weights even if size and time are those recorded. Raises `UsageError` (2) if there is no model,
    `IntegrityError` (5) for pickled weights without safetensors, Python files, `auto_map`, links that leave the folder,
    weight indexes that point outside it, weights that changed since llmctl wrote them, and damaged JSON.
    """
    folder = model_path(path)
    check_folder(folder)
    config = folder / adapters.CONFIG
    adapter = adapters.parse(read_json(config), config) if is_adapter(folder) else None
    export = read_export(folder)
    described = _described(folder) if export else folder
    if export is None:
        check_weights(folder, adapters.WEIGHTS if adapter else "*.safetensors")
    if adapter is None:
        check_config(described)
    else:
        adapters.check_rank(adapter, config)
    card = read_card(folder, verify=verify)
    if (described / GENERATION).is_file():
        read_json(described / GENERATION)  # transformers would silently ignore a damaged one
    tokenizer = folder / "tokenizer_config.json"
    settings = read_json(tokenizer) if tokenizer.is_file() else {}
    return ModelFolder(
        path=folder,
        config=read_json(described / "config.json") if adapter is None else {},
        card=card,
        has_tokenizer=tokenizer.is_file() or (folder / "tokenizer.json").is_file(),
        has_chat_template="chat_template" in settings or (folder / "chat_template.jinja").is_file(),
        adapter=adapter,
        export=export,
    )


def _described(folder: Path) -> Path:
    """Where an export keeps the config.json of the model: in a folder of its own if the format has a file of that name."""
    return folder / SOURCE if (folder / SOURCE).is_dir() else folder


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter.

    Raises `IntegrityError` if it holds a full model too, because programs differ in which of the two they open.
    """
    if not (folder / adapters.CONFIG).is_file():
        return False
    if (folder / "config.json").is_file():
        raise IntegrityError(
            "holds both a model (config.json) and an adapter (adapter_config.json)",
            where=str(folder),
            hint="keep them in separate folders",
        )
    return True


def content_hash(folder: Path) -> str:
    """Hash of the config (without keys that name its writer) and the weights: everything that affects the output."""
    config = {name: value for name, value in read_json(folder / "config.json").items() if name not in _WRITER}
    lines = [json.dumps(config, sort_keys=True)]
    lines += [f"{atomic.sha256(each)}  {each.name}" for each in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_card(folder: Path, card: Card, weights: Iterable[Path] | None = None) -> None:
    """Write the card, with the hashes of the weights in the folder; the last file that matters to a program.

    `weights`: the files that hold them; default: the safetensors.
    """
    files = integrity.hashes(folder, folder.glob("*.safetensors") if weights is None else weights)
    atomic.write_json(folder / CARD, card.replace(files=files).model_dump(mode="json"))


def read_card(folder: Path, *, verify: bool = False) -> Card | None:
    """The card of a folder; None if it has none. Raises `IntegrityError` for a damaged one, and where the files that it
    names have changed."""
    card = _card(folder)
    if card is not None:
        _check_files(folder, card, verify=verify)
    return card


def _check_files(folder: Path, card: Card, *, verify: bool) -> None:
    """Raise `IntegrityError` where the weights are not those that the card was written for."""
    if not card.files:
        return
    hint = f"copy the folder again; if you changed the weights on purpose, empty `files` in {folder / CARD}"
    if added := sorted({each.name for each in folder.glob("*.safetensors")} - card.files.keys()):
        raise IntegrityError(
            f"{', '.join(added[:5])}: not written by llmctl", where=f"{folder / CARD}:files", hint=hint
        )
    integrity.check(folder, card.files, folder / CARD, verify=verify, hint=hint)


def _card(folder: Path) -> Card | None:
    path = folder / CARD
    if not path.is_file():
        return None
    value = read_json(path)
    if value.get("version") != CARD_VERSION:
        raise IntegrityError(
            f"unknown version {value.get('version')!r}; this llmctl reads version {CARD_VERSION}",
            where=f"{path}:version",
            hint="pip install --upgrade llmctl",
        )
    try:
        return Card.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise IntegrityError(
            f"not written by llmctl, or edited since: {first['msg'].lower()}",
            where=f"{path}:{field}" if field else str(path),
            hint="restore the file",
        ) from error
