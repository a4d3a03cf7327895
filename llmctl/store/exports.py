"""The folder that `export` makes: the files of another program, our tokenizer and card, and `export.json`.

export.json   format, precision, what verification measured, size, hash of the source
source/       config.json and generation_config.json of the source, where the format has a config.json of its own
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llmctl.config import Spec
from llmctl.errors import IntegrityError
from llmctl.store import atomic
from llmctl.store.safety import read_json

EXPORT: Final = "export.json"
SOURCE: Final = "source"
CT2_HEAD: Final = "classifier.safetensors"
"""The classification head of an encoder, which CTranslate2 does not compute: (labels, hidden) and (labels)."""


class Check(Spec):
    """One measurement of a verification, met if `measured` is at most `tolerance`."""

    what: str
    measured: float | None
    tolerance: float
    met: bool
    unit: str
    of: int
    """How many were measured."""


class Export(Spec):
    """`export.json`."""

    format: str
    quantize: str
    checks: tuple[Check, ...] = ()
    size_bytes: int
    source_sha256: str
    versions: dict[str, str] = {}
    """Of the programs that wrote it."""


def read_export(folder: Path) -> Export | None:
    """The folder's `export.json`; None if it is not an export. Raises `IntegrityError` for one that is damaged."""
    path = folder / EXPORT
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        return Export.model_validate(value)
    except ValueError as error:
        raise IntegrityError("not written by llmctl, or edited since", where=str(path), hint="export again") from error


def write(folder: Path, export: Export) -> None:
    atomic.write_json(folder / EXPORT, document(export))


def document(export: Export) -> dict[str, Any]:
    return export.model_dump(mode="json")
