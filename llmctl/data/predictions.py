"""Reads predictions and references from files and aligns them: by id if all rows have one, else by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl.data.decode import Text, blocks
from llmctl.data.formats import parse_json
from llmctl.errors import DataError, UsageError
from llmctl.registry import near_path
from llmctl.types import Answer

PREDICTION_FIELDS: Final = ("prediction", "target", "summary", "answer", "label", "text")
"""In order of preference. `text` is last: it is all that rows of `generate` have, but the input of a classification."""
REFERENCE_FIELDS: Final = ("references", "reference", "answers", "target", "summary", "label", "text")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a file: its id if it has one, its texts, and `file:line`."""

    id: str | None
    texts: tuple[str, ...]
    origin: str


def check_file(path: Path, what: str) -> None:
    """Raise `UsageError` if the file does not exist or has another ending than `.txt` or `.jsonl`."""
    if not path.is_file():
        raise UsageError(f"no such file of {what}: {path}", hint=near_path(path))
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(f"{path}: {what} must be .txt (one per line) or .jsonl", hint="rename the file, or convert it")


def read(path: Path, what: str, fields: Sequence[str]) -> list[Line]:
    """The rows of a `.txt` or `.jsonl` file. Raises `DataError` with `file:line`."""
    text = Text(blocks(path, str(path)), str(path))
    content = "".join(text.characters())
    if fault := text.fault(1, content):
        raise fault
    # Only a line feed ends a line: U+2028, U+0085 and the like are text.
    rows = content.split("\n")
    if rows and not rows[-1]:
        rows.pop()
    rows = [row.removesuffix("\r") for row in rows]
    if not rows:
        raise DataError(f"no {what} in the file", where=str(path))
    if path.suffix == ".txt":
        return [Line(None, (row,), f"{path}:{number}") for number, row in enumerate(rows, 1)]
    return [_record(row, f"{path}:{number}", what, fields) for number, row in enumerate(rows, 1) if row.strip()]


def _record(row: str, origin: str, what: str, fields: Sequence[str]) -> Line:
    value = parse_json(row, origin)
    if not isinstance(value, Mapping):
        raise DataError("the row is not a JSON object", where=origin)
    if "error" in value and not any(name in value for name in fields):
        raise DataError(f"the row records an error: {value['error']}", where=origin, hint="generate again")
    for name in fields:
        if name in value:
            return Line(_id(value), _texts(value[name], f"{origin}:{name}"), origin)
    raise DataError(
        f"the row has none of the fields {', '.join(fields)}",
        where=origin,
        hint=f"give the field with the {what} one of these names",
    )


def _id(value: Mapping[str, Any]) -> str | None:
    return str(value["id"]) if value.get("id") is not None else None


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    for each in texts:
        if not isinstance(each, str):
            raise DataError(f"the value is {type(each).__name__}, expected str", where=where)
    return tuple(texts)


def pair(predictions: Sequence[Line], references: Sequence[Sequence[Line]]) -> list[Answer]:
    """Pair each prediction with its references. Raises `DataError` if rows or ids do not match, so that no score is
    computed over wrong pairs."""
    for lines in references:
        if len(lines) != len(predictions):
            where = lines[0].origin.rsplit(":", 1)[0]
            raise DataError(
                f"{len(predictions):,} predictions but {len(lines):,} references",
                where=where,
                hint="give one reference per prediction",
            )
    aligned = [_aligned(predictions, lines) for lines in references]
    return [
        Answer(
            id=line.id or str(number),
            prediction=line.texts[0] if line.texts else "",
            references=tuple(text for lines in aligned for text in lines[number].texts),
        )
        for number, line in enumerate(predictions)
    ]


def like(baseline: Sequence[Line], predictions: Sequence[Line]) -> Sequence[Line]:
    """A baseline's predictions in the order of the predictions they are compared with."""
    if len(baseline) != len(predictions):
        where = baseline[0].origin.rsplit(":", 1)[0]
        raise DataError(f"{len(predictions):,} predictions but {len(baseline):,} in the baseline", where=where)
    return _aligned(predictions, baseline, "no row of the baseline has the ids")


def _aligned(
    predictions: Sequence[Line], references: Sequence[Line], lacking: str = "no reference has the ids"
) -> Sequence[Line]:
    """References in the order of the predictions."""
    if any(line.id is None for line in (*predictions, *references)):
        return references
    by_id = {line.id: line for line in references}
    for lines in (references, predictions):
        seen: set[str | None] = set()
        for line in lines:
            if line.id in seen:
                raise DataError(f"duplicate id {line.id!r}", where=line.origin)
            seen.add(line.id)
    missing = [line for line in predictions if line.id not in by_id]
    if missing:
        names = ", ".join(repr(line.id) for line in missing[:5])
        raise DataError(f"{lacking} {names}", where=missing[0].origin)
    return [by_id[line.id] for line in predictions]
