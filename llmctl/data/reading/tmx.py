"""Streams the units of a TMX translation memory (LISA, TMX 1.4b): a record for each, with a text for each language."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple
from xml.parsers import expat

from llmctl.data.reading.decode import Limits
from llmctl.data.reading.formats import TRUNCATED, Bad, RawRecord
from llmctl.errors import DataError, EnvironmentFault

CODES: Final = frozenset({"bpt", "ept", "ph", "it", "ut"})
"""Elements inside a segment that hold codes of the program which wrote it, no text."""
ANY: Final = "*all*"
"""The source language of a memory whose languages may all be the source."""


class _Unit(NamedTuple):
    line: int
    source: str
    """The language of its source text."""
    texts: Mapping[str, str]
    """By language."""
    twice: str
    """A language that has several texts; empty if none has."""


def tmx(
    blocks: Iterator[bytes],
    name: str,
    limits: Limits,
    columns: Collection[str] = (),
    say: Callable[[str], None] = lambda note: None,
) -> Iterator[RawRecord | Bad]:
    """Read unit by unit, in bounded memory.

    `columns`: languages that `--columns` names; the fields are then the languages. Otherwise `source` is the text in the
    language of the header, `target` that in the only other one. Raises `DataError` for a file that is no TMX.
    """
    reader = _Reader(name, limits)
    for block in blocks:
        for unit in reader.read(block):
            yield _row(unit, name, columns, say)
    if reader.begun:
        reader.close()


def _row(unit: _Unit, name: str, columns: Collection[str], say: Callable[[str], None]) -> RawRecord | Bad:
    where = f"{name}:{unit.line}"
    if unit.twice:
        return Bad(DataError(f"the unit has several texts in {unit.twice!r}", where=where), unit.texts)
    if columns:
        named = {key: column for column in columns if (key := _language(unit.texts, column))}
        return RawRecord(where, {named.get(language, language): text for language, text in unit.texts.items()})
    source = _language(unit.texts, unit.source)
    targets = [language for language in unit.texts if language != source]
    if source is None or len(targets) != 1:
        found = ", ".join(unit.texts) or "none"
        example = list(unit.texts) if len(unit.texts) > 1 else ["en", "zh"]
        return Bad(
            DataError(
                f"the unit has no pair of languages: the source language is {unit.source or 'not named'}; texts: {found}",
                where=where,
                hint=f"name the languages: --columns source={example[0]},target={example[1]}",
            ),
            unit.texts,
        )
    say(f"{name}: source {source}, target {targets[0]}")
    return RawRecord(where, {"source": unit.texts[source], "target": unit.texts[targets[0]]})


def _language(texts: Mapping[str, str], wanted: str) -> str | None:
    """The language among these that is meant: `en` is also en-US, if that is the only English."""
    plain = {language: language.lower().replace("_", "-") for language in texts}
    wanted = wanted.lower().replace("_", "-")
    same = [language for language, each in plain.items() if each == wanted]
    kin = [language for language, each in plain.items() if each.partition("-")[0] == wanted.partition("-")[0]]
    return same[0] if same else kin[0] if len(kin) == 1 else None


class _Reader:
    """Collects units from the events of the parser."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name, self._limits = name, limits
        self.begun = False
        self._path: list[str] = []
        self._units: list[_Unit] = []
        self._line = 1
        self._memory_source = self._source = ""
        self._language = ""
        self._texts: dict[str, str] = {}
        self._twice = ""
        self._pieces: list[str] = []
        self._size = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity

    def read(self, block: bytes) -> list[_Unit]:
        """The units that end in this block."""
        self.begun = True
        self._parse(block, last=False)
        units, self._units = self._units, []
        return units

    def close(self) -> None:
        """Raise `DataError` if the file ends before its root element."""
        self._parse(b"", last=True)

    def _parse(self, block: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(block, last)
        except expat.ExpatError as error:
            problem = f"{TRUNCATED if last else 'not valid XML: '}{expat.ErrorString(error.code)}"
            hint = "copy or download the file again" if last else "export the translation memory again, as UTF-8"
            raise DataError(problem, where=f"{self._name}:{error.lineno}:{error.offset + 1}", hint=hint) from error

    def _begin(self, element: str, attributes: dict[str, str]) -> None:
        if not self._path and element != "tmx":
            raise DataError(f"not a TMX translation memory: its root element is <{element}>", where=self._name)
        self._path.append(element)
        if len(self._path) > 100:
            raise DataError("not a TMX translation memory: nested too deeply", where=self._where())
        if element == "header":
            self._memory_source = attributes.get("srclang", "")
        elif element == "tu":
            source = attributes.get("srclang", self._memory_source)
            self._source = "" if source == ANY else source
            self._line, self._texts, self._twice = self._parser.CurrentLineNumber, {}, ""
        elif element == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang", "")
        elif element == "seg":
            self._pieces, self._size = [], 0

    def _end(self, element: str) -> None:
        self._path.pop()
        if element == "seg" and self._language:
            self._twice = self._language if self._language in self._texts else self._twice
            self._texts[self._language] = "".join(self._pieces)
        elif element == "tu":
            self._units.append(_Unit(self._line, self._source, self._texts, self._twice))

    def _characters(self, text: str) -> None:
        if "seg" not in self._path or not CODES.isdisjoint(self._path):
            return
        self._pieces.append(text)
        self._size += len(text)
        if self._size > self._limits.record_characters:
            raise EnvironmentFault(
                f"the segment is longer than {self._limits.record_characters:,} characters, the limit that keeps memory bounded",
                where=self._where(),
            )

    def _entity(self, *declaration: object) -> None:
        raise DataError(
            "the file declares entities, which can grow without end",
            where=self._where(),
            hint="export the translation memory again, without a document type of its own",
        )

    def _where(self) -> str:
        return f"{self._name}:{self._parser.CurrentLineNumber}"
