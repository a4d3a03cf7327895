"""Reads predictions and references and aligns them: by id if all rows have one, else by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl.data.reading.formats import Bad
from llmctl.data.reading.rows import TextLine, ordered_rows
from llmctl.data.reading.sources import STDIN, STDIN_NAME, find_sources
from llmctl.errors import DataError, UsageError
from llmctl.registry import near_path
from llmctl.types import Answer, Record

PREDICTION_FIELDS: Final = ("prediction", "target", "summary", "answer", "label", "text")
"""In order of preference. `text` is last: it is all that rows of `generate` have, but the input of a classification."""
REFERENCE_FIELDS: Final = ("references", "reference", "answers", "target", "summary", "label", "text", "messages")
"""In order of preference."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a file: its id if it has one, its texts, and `file:line`."""

    id: str | None
    texts: tuple[str, ...]
    origin: str


def check_file(path: Path, what: str) -> None:
    """Raise `UsageError` if there is no such file, pipe or standard input, `EnvironmentFault` if it may not be read."""
    if str(path) == STDIN:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file of {what}", hint=_inside(path))
    if not path.exists():
        raise UsageError(f"no such file of {what}: {path}", hint=near_path(path))
    find_sources([str(path)], unknown="text")


def _inside(folder: Path) -> str:
    kept = folder / "predictions.jsonl"
    return f"name the file: {kept}" if kept.is_file() else "name a .txt or .jsonl file"


def read(path: Path, what: str, fields: Sequence[str]) -> list[Line]:
    """The rows of a file, a pipe or standard input (`-`). Raises `DataError` with `file:line`."""
    rows: list[Line] = []
    for row in ordered_rows(str(path)):
        if isinstance(row, Bad):
            raise row.error
        rows.append(Line(None, (row.text,), row.origin) if isinstance(row, TextLine) else _line(row, what, fields))
    if not rows:
        name = STDIN_NAME if str(path) == STDIN else str(path)
        raise DataError(f"no {what} in the file", where=name, hint="it is empty")
    return rows


def _line(row: Record, what: str, fields: Sequence[str]) -> Line:
    value = row.fields
    if "error" in value and not any(name in value for name in fields):
        raise DataError(
            f"the row records an error: {value['error']}",
            where=row.origin,
            hint="generate again without the reason of the error, or remove the row from both files",
        )
    sample = value.get("sample")
    if fields is PREDICTION_FIELDS and isinstance(sample, int) and sample > 0:
        raise DataError(
            f"the row is answer {sample + 1} to one prompt (--num-samples), and eval scores one",
            where=row.origin,
            hint="keep one of each: jq -c 'select(.sample == 0)' FILE > NEW.jsonl",
        )
    for name in fields:
        if name in value:
            identity = value.get("id")
            return Line(
                None if identity is None else str(identity), _texts(value[name], f"{row.origin}:{name}"), row.origin
            )
    raise DataError(
        f"the row has none of the fields {', '.join(fields)}; fields found: {', '.join(value) or 'none'}",
        where=row.origin,
        hint=f"give the field with the {what} one of these names",
    )


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]  # SQuAD's answers: {"text": [...], "answer_start": [...]}
    found = value if isinstance(value, list) else [value]
    if where.endswith(":messages"):
        found = _last_answer(found)
    return tuple(_text(each, where) for each in found)


def _last_answer(messages: list[Any]) -> list[Any]:
    """What the assistant says last in a conversation."""
    last = messages[-1] if messages else None
    return [last.get("content")] if isinstance(last, Mapping) and last.get("role") == "assistant" else []


def _text(value: Any, where: str) -> str:
    """A text, or a number or truth value as JSON writes it: labels are often numbers."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]  # one answer of SQuAD: {"text": ..., "answer_start": ...}
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float):
        return str(value)
    kind = "null" if value is None else type(value).__name__
    raise DataError(f"the value is {kind}, expected text", where=where)


def pair(predictions: Sequence[Line], references: Sequence[Sequence[Line]]) -> list[Answer]:
    """Pair each prediction with its references. Raises `DataError` if rows or ids do not match, so that no score is
    computed over wrong pairs."""
    for lines in references:
        _check_counts(predictions, lines, "predictions", "references", "give one reference per prediction")
    aligned = [_aligned(predictions, lines) for lines in references]
    return [
        Answer(
            id=line.id or str(number),
            prediction=line.texts[0] if line.texts else "",
            references=tuple(text for lines in aligned for text in lines[number].texts),
        )
        for number, line in enumerate(predictions)
    ]


def _check_counts(one: Sequence[Line], other: Sequence[Line], name: str, other_name: str, hint: str) -> None:
    """Raise `DataError` that names the first row of the longer file without a counterpart."""
    if len(one) == len(other):
        return
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    extra = longer[len(shorter)]
    blank = " is blank and" if not "".join(extra.texts).strip() else ""
    end = shorter[-1].origin
    raise DataError(
        f"{len(one):,} {name} but {len(other):,} {other_name}: this row{blank} has no counterpart, {end} is the last",
        where=extra.origin,
        hint=hint,
    )


def like(baseline: Sequence[Line], predictions: Sequence[Line]) -> Sequence[Line]:
    """A baseline's predictions in the order of the predictions they are compared with."""
    _check_counts(predictions, baseline, "predictions", "in the baseline", "the baseline must answer the same rows")
    return _aligned(predictions, baseline, "no row of the baseline has the ids")


def _aligned(
    predictions: Sequence[Line], references: Sequence[Line], lacking: str = "no reference has the ids"
) -> Sequence[Line]:
    """References in the order of the predictions."""
    if any(line.id is None for line in (*predictions, *references)):
        for line, other in zip(predictions, references, strict=True):
            if None not in (line.id, other.id) and line.id != other.id:
                raise DataError(
                    f"the row has the id {line.id!r} and {other.origin} has {other.id!r}, and other rows have no id",
                    where=line.origin,
                    hint="give each row an id, or remove the ids to match rows by order",
                )
        return references
    if [line.id for line in predictions] == [line.id for line in references]:
        return references  # the same order, so ids that occur twice are no obstacle
    by_id = {line.id: line for line in references}
    for lines in (references, predictions):
        seen: dict[str | None, str] = {}
        for line in lines:
            if line.id in seen:
                raise DataError(
                    f"duplicate id {line.id!r}, as in {seen[line.id]}",
                    where=line.origin,
                    hint="give each row an id of its own, or remove the ids to match rows by order",
                )
            seen[line.id] = line.origin
    missing = [line for line in predictions if line.id not in by_id]
    if missing:
        names = ", ".join(repr(line.id) for line in missing[:5])
        raise DataError(f"{lacking} {names}", where=missing[0].origin)
    return [by_id[line.id] for line in predictions]
