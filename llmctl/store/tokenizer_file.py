"""Checks tokenizer.json before the library `tokenizers` opens it: what it asks for must be bounded.

The library trusts the file: a chain of replacements multiplies a text without end, and a table that states a wrong size
ends the process. Both are seen in the JSON.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.errors import IntegrityError
from llmctl.store.patterns import check_pattern
from llmctl.store.safety import LARGEST_TABLE, read_json

MOST_GROWTH: Final = 64
"""Largest factor by which the replacements of a tokenizer together may lengthen a text, in characters."""
_STEPS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_PARTS: Final = ("normalizers", "pretokenizers", "processors", "decoders")


def check_tokenizer_file(path: Path) -> None:
    """Raise `IntegrityError`, with file and key, for a tokenizer.json that the library must not open."""
    if not path.is_file():
        return
    try:
        document = read_json(path, LARGEST_TABLE)
    except IntegrityError as error:
        raise IntegrityError(f"the tokenizer cannot be opened: {error.message}", where=error.where) from error
    for step in _STEPS:
        growth = 1.0
        for key, part in _parts(document.get(step), step):
            where = f"{path}:{key}"
            growth *= max(1.0, _growth(part, where))
            if growth > MOST_GROWTH:
                raise IntegrityError(
                    f"its replacements lengthen a text more than {MOST_GROWTH} times",
                    where=where,
                    hint="use the tokenizer files that the model was published with",
                )
            _check_table(part, where)
            pattern = part.get("pattern")
            if isinstance(pattern, dict) and isinstance(regex := pattern.get("Regex"), str):
                check_pattern(regex, f"{where}.pattern", path)


def _parts(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each part of a step, in its order, with its path of keys."""
    if not isinstance(value, dict):
        return
    yield key, value
    for name in _PARTS:
        listed = value.get(name)
        for number, each in enumerate(listed if isinstance(listed, list) else ()):
            yield from _parts(each, f"{key}.{name}.{number}")


def _growth(part: Mapping[str, Any], where: str) -> float:
    """By which factor a part may lengthen a text in characters."""
    kind = part.get("type")
    if kind == "Prepend":
        return 1.0 + len(str(part.get("prepend", "")))
    if kind != "Replace":
        return 1.0
    pattern = part.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if literal == "":
        raise IntegrityError("the text to replace is empty", where=f"{where}.pattern")
    # A regular expression may match a single character, or none.
    shortest = len(literal) if isinstance(literal, str) else 1
    return len(str(part.get("content", ""))) / shortest


def _check_table(part: Mapping[str, Any], where: str) -> None:
    """Raise `IntegrityError` for a table of sentencepiece (`precompiled_charsmap`) whose size is not that of its data.

    The table begins with the size in bytes of its first half, as a little-endian number of 4 bytes.
    """
    table = part.get("precompiled_charsmap")
    if table is None:
        return
    try:
        data = base64.b64decode(table, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise IntegrityError(f"not base64: {error}", where=f"{where}.precompiled_charsmap") from error
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size > len(data) - 4:
        raise IntegrityError(
            f"the table states {size:,} bytes and has {max(0, len(data) - 4):,}",
            where=f"{where}.precompiled_charsmap",
            hint="copy the tokenizer files again",
        )
