"""Streams the records of JSON; `documents.py`, `tables.py` and `columnar.py` read the other formats.

Yields `Bad` for a bad row, so that the caller can continue; raises for a bad file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from llmctl.data.reading.decode import Text
from llmctl.data.reading.shapes import unfolded
from llmctl.errors import DataError
from llmctl.types import TURNS

_WHITESPACE: Final = re.compile(r"[ \t\n\r]*")
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
TRUNCATED: Final = "looks truncated: "
_LIST_OF_OBJECTS: Final = re.compile(r"\[\s*\{")
_CMRC: Final = {"query_text": "question", "query_id": "id"}
"""Names of fields in CMRC 2018, and those of SQuAD."""
LONGEST_TOKEN: Final = 12
"""Characters of the longest JSON token that can be cut in the middle: an escaped surrogate pair."""


class RawRecord(NamedTuple):
    """The fields of a row; `origin` is `file:line`."""

    origin: str
    fields: Mapping[str, Any]


class Bad(NamedTuple):
    """A refused row: the error and the raw content."""

    error: DataError
    raw: Any


class Wanted(NamedTuple):
    """By what a record is known in JSON."""

    columns: Collection[str] = ()
    """Columns that a record needs."""
    fields: Collection[str] = ()
    """Other fields that a record may have, also lists."""
    fields_of: Callable[[str], Mapping[str, Any]] | None = None
    """Makes the fields of a record from a text, for tasks that need no more."""


_NOTHING: Final = Wanted()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER: Final[Any] = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse_json(text: str, where: str, *, last: bool = False) -> Any:
    """Parse JSON text. Raises `DataError`; with `last`, nothing follows, so an early end is reported as truncation."""
    try:
        try:
            value, end = _DECODER.scan_once(text, 0)
        except StopIteration:
            end = -1
        if end != len(text):  # blanks around the value, or an error
            value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _json_error(error, where, last=last) from error
    _refuse_surrogates(value, text, where)
    return value


def _json_error(error: Exception, where: str, *, last: bool) -> DataError:
    if isinstance(error, RecursionError):
        return DataError("not valid JSON: nested too deeply", where=where)
    if isinstance(error, json.JSONDecodeError):
        problem = f"{error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at column {error.colno}"
        if last and _ends_early(error, margin=0):
            return DataError(f"{TRUNCATED}{problem}", where=where, hint="copy or download the file again")
        return DataError(f"not valid JSON: {problem}", where=where)
    if "int_max_str_digits" in str(error) or "digits" in str(error):
        return DataError("a number has more than 4,300 digits", where=where)
    return DataError(f"not valid JSON: {error}", where=where)


def _ends_early(error: json.JSONDecodeError, *, margin: int) -> bool:
    """Whether more text could fix the error: the last `margin` characters may be part of a token."""
    return error.pos >= len(error.doc.rstrip()) - margin or error.msg.startswith("Unterminated")


def _refuse_surrogates(value: Any, text: str, where: str) -> None:
    """Raise `DataError` for a lone surrogate, which is not a character and cannot be written as UTF-8."""
    if "\\u" not in text or not _SURROGATE_ESCAPE.search(text):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise DataError(f"lone surrogate \\u{code:04x}, half of a character", where=where) from error


def _row(value: Any, where: str, wanted: Wanted = _NOTHING) -> RawRecord | Bad:
    if isinstance(value, dict):
        return RawRecord(where, value)
    if isinstance(value, str) and wanted.fields_of is not None:
        return RawRecord(where, wanted.fields_of(value))
    return Bad(DataError(f"the record is {type(value).__name__}, expected a JSON object", where=where), value)


def is_one_value(head: str) -> bool:
    """Whether a file called JSONL begins as JSON that is not written in lines: with an array, or an object of many lines."""
    first = head.lstrip("\ufeff \t\r\n")
    return first.startswith("[") or first.partition("\n")[0].strip() == "{"


def jsonl(
    text: Text, wanted: Wanted = _NOTHING, *, whole: bool = True, say: Callable[[str], None] = lambda note: None
) -> Iterator[RawRecord | Bad]:
    """One JSON object per line; blank lines are skipped. `whole`: the text has the last line of its file."""
    wanted = wanted._replace(fields_of=None)
    for number, line, last in _with_last(text.lines()):
        where = f"{text.name}:{number}"
        if fault := text.fault(number, line):
            yield Bad(fault, line)
            continue
        try:
            value = parse_json(line, where, last=last and whole)
        except DataError as error:
            yield Bad(error, line)
        else:
            yield from _rows(value, where, text.name, say, wanted)


def _with_last(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, bool]]:
    """The lines that are not blank, each with whether it is the last."""
    held: tuple[int, str] | None = None
    for number, line in lines:
        if line and not line.isspace():
            if held is not None:
                yield *held, False
            held = number, line
    if held is not None:
        yield *held, True


def json_file(
    text: Text, records: str | None = None, wanted: Wanted = _NOTHING, say: Callable[[str], None] = lambda note: None
) -> Iterator[RawRecord | Bad]:
    """An array of objects, concatenated objects, or one object that holds records; reads one at a time where it can.

    `records`: the key of the list of records in an object; None: its first list of objects, unless a record is `wanted` that
    looks like this. An article in the layout of SQuAD gives a record for each of its questions.
    """
    values = _JsonValues(text)
    if values.at("{") and (key := records or values.first_list(wanted)):
        if records is None:
            say(f"{text.name}: the records are the list {key!r}")
        yield from _held(values, key, text.name, say, wanted, only=records is None)
        return
    if records is not None:
        raise DataError(f"not an object with the key {records!r}", where=text.name, hint="remove the setting records")
    listed = values.skip("[")
    if not listed and values.at("{"):
        where, value = values.value()
        found = unfolded(value, wanted.columns, {*wanted.columns, *wanted.fields}) if values.at_end() else None
        if found is not None:
            say(f"{text.name}: the records are in {found.what}")
            for number, fields in enumerate(found.records, 1):
                yield RawRecord(f"{text.name}:{where.rpartition(':')[2]}[{number}]", fields)
            return
        yield from _rows(value, where, text.name, say, wanted)
    yield from _items(values, listed, text.name, say, wanted)
    if listed and not values.at_end():
        raise DataError("not valid JSON: text after the end of the array", where=values.where)


def _held(
    values: _JsonValues, key: str, name: str, say: Callable[[str], None], wanted: Wanted, *, only: bool
) -> Iterator[RawRecord | Bad]:
    """The records in the list `key` of an object; its other members are read and ignored. `only`: another list of objects
    is an error, because nobody chose this one."""
    values.skip("{")
    names: list[str] = []
    while not values.skip("}"):
        where, member = values.value()
        if not isinstance(member, str) or not values.skip(":"):
            raise DataError("not valid JSON: expected a key and :", where=where)
        names.append(member)
        if member == key and values.skip("["):
            yield from _items(values, True, name, say, wanted)
        else:
            _, value = values.value()
            if only and isinstance(value, list) and value and isinstance(value[0], dict):
                hint = f"choose one: preprocess --set records={key}; or write each to a file of its own"
                message = f"the object holds several lists of records: {key!r} and {member!r}"
                raise DataError(message, where=name, hint=hint)
        if not values.skip(",") and not values.at("}"):
            problem = TRUNCATED + "the object has no end" if values.at_end() else "not valid JSON: expected , or }"
            raise DataError(problem, where=values.where)
    if key not in names:
        hint = f"its keys: {', '.join(names)}"
        raise DataError(f"the object has no list {key!r}", where=name, hint=hint)
    if not values.at_end():
        raise DataError("not valid JSON: text after the end of the object", where=values.where)


def _items(
    values: _JsonValues, listed: bool, name: str, say: Callable[[str], None], wanted: Wanted
) -> Iterator[RawRecord | Bad]:
    """Values up to the end of the array, or of the file."""
    while not values.at_end():
        if listed and values.skip("]"):
            return
        where, value = values.value()
        yield from _rows(value, where, name, say, wanted)
        if listed and not values.skip(",") and not values.at("]"):
            problem = TRUNCATED + "the array has no end" if values.at_end() else "not valid JSON: expected , or ]"
            raise DataError(problem, where=values.where)
    if listed:
        raise DataError(TRUNCATED + "the array has no end", where=values.where, hint="copy or download the file again")


def _rows(value: Any, where: str, name: str, say: Callable[[str], None], wanted: Wanted) -> Iterator[RawRecord | Bad]:
    """The record that a JSON value is; of an article in the layout of SQuAD or CMRC one for each question, if they hold a
    wanted column that the article lacks."""
    paragraphs = value.get("paragraphs") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(value.get("qas"), list):
        paragraphs = [value]
    if isinstance(paragraphs, list) and _ask(paragraphs, set(wanted.columns) - value.keys(), wanted):
        say(f"{name}: read as SQuAD, one record for each question")
        yield from _questions(paragraphs, where)
    else:
        yield _row(value, where, wanted)


def _ask(paragraphs: list[Any], lacking: set[str], wanted: Wanted) -> bool:
    """Whether paragraphs have questions, and these a column that is lacking, if any is wanted."""
    asked = [each["qas"] for each in paragraphs if isinstance(each, dict) and "qas" in each]
    names = {name for each in asked if isinstance(each, list) for one in each if isinstance(one, dict) for name in one}
    names |= {"question", *(_CMRC.get(name, name) for name in names)}
    return bool(asked) and (not wanted.columns or not lacking.isdisjoint(names))


def _questions(paragraphs: list[Any], where: str) -> Iterator[RawRecord | Bad]:
    for paragraph in paragraphs:
        asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(asked, list):
            yield Bad(DataError("the paragraph has no list 'qas'", where=where), paragraph)
            continue
        context = next((paragraph[name] for name in ("context", "context_text") if name in paragraph), None)
        for each in asked:
            row = _row(each, where)
            if isinstance(row, Bad):
                yield row
                continue
            fields = {_CMRC.get(name, name): content for name, content in row.fields.items()}
            yield RawRecord(where, fields | ({} if context is None else {"context": context}))


def _is_part(key: str, first: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a list is a part of a record; `first`: its first object, without a wanted column if it is one of turns."""
    turns = key in TURNS and ("role" in first or "from" in first)
    return (turns or key in wanted.fields) and first.keys().isdisjoint(wanted.columns)


def _visible(text: str, start: int) -> int:
    """The first place from `start` on that is not blank."""
    found = _WHITESPACE.match(text, start)
    return found.end() if found else start


class _JsonValues:
    """Reads JSON values one by one through a buffer that grows as far as one value needs."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._blocks = text.characters()
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._counted = 0
        """Buffer position up to which `_line` has counted newlines."""

    @property
    def where(self) -> str:
        self._line += self._buffer.count("\n", self._counted, self._position)
        self._counted = self._position
        return f"{self._text.name}:{self._line}"

    def _more(self, wanted: int) -> bool:
        """Drop what was read and extend the buffer by at least `wanted` characters; False at the end of the text."""
        self._line += self._buffer.count("\n", self._counted, self._position)
        pieces, grown = [self._buffer[self._position :]], 0
        self._position = self._counted = 0
        for block in self._blocks:
            pieces.append(block)
            grown += len(block)
            if grown >= wanted:
                break
        self._buffer = "".join(pieces)
        if fault := self._text.fault(self._line, self._buffer):
            raise fault
        return grown > 0

    def at_end(self) -> bool:
        while True:
            match = _WHITESPACE.match(self._buffer, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._buffer):
                return False
            if not self._more(1):
                return True

    def at(self, mark: str) -> bool:
        return not self.at_end() and self._buffer[self._position] == mark

    def skip(self, mark: str) -> bool:
        found = self.at(mark)
        self._position += found
        return found

    def first_list(self, wanted: Wanted) -> str | None:
        """The key of the first list of objects in the object here; None if it has none, or if it is a record itself: it has a
        wanted column or list, or another object follows. Looks no further than the buffer."""
        found: str | None = None
        place = self._position + 1
        try:
            while self._buffer[place := _visible(self._buffer, place)] != "}":
                key, place = _DECODER.raw_decode(self._buffer, place)
                place = _visible(self._buffer, place)
                if self._buffer[place] != ":" or key in wanted.columns:
                    return None
                place = _visible(self._buffer, place + 1)
                objects = _LIST_OF_OBJECTS.match(self._buffer, place)
                if self._buffer[place] == "[" and _is_part(key, self._object(objects), wanted):
                    return None
                if found is None and objects:
                    found = key
                _, place = _DECODER.raw_decode(self._buffer, place)
                place = _visible(self._buffer, place)
                place += self._buffer[place] == ","
            place = _visible(self._buffer, place + 1)
        except (ValueError, IndexError, RecursionError):
            return found  # the buffer ends here
        return None if self._buffer[place : place + 1] == "{" else found

    def _object(self, objects: re.Match[str] | None) -> Mapping[str, Any]:
        """The first of these objects; an empty one if the buffer ends in it."""
        try:
            return _DECODER.raw_decode(self._buffer, objects.end() - 1)[0] if objects else {}
        except (ValueError, RecursionError):
            return {}

    def value(self) -> tuple[str, Any]:
        self.at_end()  # skips whitespace
        while True:
            where = self.where
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
            except (ValueError, RecursionError) as error:
                # Reading more helps only if the buffer ends in the middle of the value.
                if not isinstance(error, json.JSONDecodeError) or not _ends_early(error, margin=LONGEST_TOKEN):
                    raise _json_error(error, where, last=False) from error
                held = len(self._buffer) - self._position
                if held > self._text.limits.record_characters:
                    raise self._text.too_long("value", where) from error
                line = self._line + self._buffer.count("\n", self._position, error.pos)
                if not self._more(max(held, 1)):
                    raise _json_error(error, f"{self._text.name}:{line}", last=True) from error
                continue
            _refuse_surrogates(value, self._buffer[self._position : end], where)
            self._position = end
            return where, value
