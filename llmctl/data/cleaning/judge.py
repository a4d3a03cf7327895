"""Judges a record by its content alone: cleans it, filters it, finds its split. Any process may do so, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmctl.data.cleaning.clean import Cleaner, is_invisible
from llmctl.data.cleaning.filters.spec import Filter, Reading, Verdict
from llmctl.data.cleaning.split import content_hash, split_of
from llmctl.data.cleaning.words import words_of
from llmctl.data.reading.formats import Bad
from llmctl.data.spec import Clean, CleanRules, Splits
from llmctl.data.tokenizing.encode import Segmenting
from llmctl.types import TOOL_JSON, Record, Segment


@dataclass(frozen=True, slots=True)
class DroppedRecord:
    """A record that is dropped. `reason`: `empty`, `too_short`, `not_in_loss`, `duplicate` or that of a filter."""

    reason: str
    why: str = field(default="", compare=False)
    """What was measured."""
    text: str = field(default="", compare=False)
    """The text of the record."""
    origin: str = field(default="", compare=False)


class Admissible(NamedTuple):
    """A cleaned record that is kept unless it repeats another one."""

    record: Record
    digest: bytes
    """The hash of its content."""
    question: bytes
    """The hash of what it asks; of its content if all of it is asked."""
    split: str
    characters: int
    label: str | None
    cleaned: tuple[str, ...]
    """The rules of cleaning that changed it."""
    found: tuple[Verdict, ...] = ()
    """Verdicts of filters that do not drop it."""

    def text(self) -> str:
        return text_of(self.record.fields)


class Judge:
    """Cleans a record and decides by its content whether it is a candidate. Remembers nothing of a record."""

    def __init__(
        self,
        task: Segmenting,
        columns: Sequence[str],
        clean: Clean,
        splits: Splits,
        *,
        asked: Sequence[str] | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        """`columns`: the fields of the task. `asked`: those that ask for the answer; default: all of them.

        `clean`: `CleanRules` where words are cut or removed.
        """
        self.cleaner = Cleaner(clean)
        self._words = words_of(clean) if isinstance(clean, CleanRules) else None
        self._answers = frozenset(columns) - frozenset(columns if asked is None else asked)
        self._task, self._columns, self._asked = task, columns, asked
        self._label = task.answer_role if task.labelled else None
        self._min_chars, self._splits, self._filters = clean.min_chars, splits, filters

    def judge(self, record: Record | Bad, split: str | None = None) -> Admissible | DroppedRecord:
        """Clean a record and judge it. `split`: the split that its file names; None: it follows from a hash.

        Raises `DataError` for a bad row or one that the task cannot read.
        """
        if isinstance(record, Bad):
            raise record.error
        self.cleaner.applied.clear()
        fields = {name: self._clean(name, record.fields.get(name)) for name in self._columns}
        cleaned = Record(record.id, fields, record.origin)
        segments = self._task.segments(cleaned)
        if reason := self._unusable(segments):
            return DroppedRecord(reason, text=text_of(fields), origin=record.origin)
        found: list[Verdict] = []
        if self._filters:
            reading = Reading(_written(segments), held_out=split in ("validation", "test"))
            for each in self._filters:
                verdict = each.judge(reading)
                if verdict is None:
                    continue
                if verdict.drops:
                    return DroppedRecord(verdict.reason, verdict.why, text_of(fields), record.origin)
                found.append(verdict)
                if each.rewrites:
                    fields = {name: self._rewritten(name, value, each.rewrite) for name, value in fields.items()}
                    cleaned = Record(record.id, fields, record.origin)
                    segments = self._task.segments(cleaned)
                    reading = Reading(_written(segments), held_out=reading.held_out)
        # Of the text before it is cut into words: the same records are held out with and without.
        digest = content_hash(fields, self._columns)
        question = digest if self._asked is None else self._question(fields, segments)
        if self._words is not None:
            cut = self._words.fields(fields, self._answers, self._label)
            if cut != fields:
                self.cleaner.applied.add("words")
                fields, whole = cut, fields
                cleaned = Record(record.id, fields, record.origin)
                segments = self._task.segments(cleaned)
                if reason := self._unusable(segments):
                    return DroppedRecord(reason, text=text_of(whole), origin=record.origin)
        if split is None:
            split = split_of(digest if self._splits.hash == "record" else question, self._splits)
        return Admissible(
            cleaned,
            digest,
            question,
            split,
            sum([len(part.text) for part in segments]),
            None if self._label is None else next((part.text for part in segments if part.role == "label"), None),
            tuple(sorted(self.cleaner.applied)) if self.cleaner.applied else (),
            tuple(found),
        )

    def _unusable(self, segments: Sequence[Segment]) -> str | None:
        """The reason why a task has no use for the record."""
        short = answers = in_loss = False
        for part in segments:
            text, role = part.text, part.role
            # A conversation may start with an empty system message, and a tool may answer nothing.
            if role not in ("system", "tool"):
                if not text or text.isspace() or (not text[0].isalnum() and is_invisible(text)):
                    return "empty"
                short |= len(text) < self._min_chars and role != "label"
            if role == self._task.answer_role:
                answers, in_loss = True, in_loss or part.in_loss
        return "too_short" if short else "not_in_loss" if answers and not in_loss else None

    def _question(self, fields: Mapping[str, Any], segments: Sequence[Segment]) -> bytes:
        """The hash of what the record asks: of its question columns, or of a conversation up to its first user turn."""
        assert self._asked is not None
        if self._task.answer_role != "assistant":
            return content_hash(fields, self._asked)
        first = next((number for number, part in enumerate(segments, 1) if part.role == "user"), len(segments))
        return content_hash(
            {"": [part.text for part in segments[:first] if part.role not in ("system", "tools")]}, [""]
        )

    def _clean(self, name: str, value: Any) -> Any:
        if name == self._label:
            if not isinstance(value, str) or value == value.strip():
                return value
            self.cleaner.applied.add("label")
            return value.strip()
        if isinstance(value, str):
            return self.cleaner.text(value)
        cleaned = self.cleaner.value(value)
        if isinstance(cleaned, list):
            return [_message(each) if isinstance(each, (dict, Mapping)) else each for each in cleaned]
        return cleaned

    def _rewritten(self, name: str, value: Any, rewrite: Callable[[str], str]) -> Any:
        return value if name == self._label else mapped(value, rewrite)


def _written(segments: Sequence[Segment]) -> list[Segment]:
    """The segments that are texts: filters judge no recording and no JSON."""
    return [segment for segment in segments if segment.audio is None and segment.role not in TOOL_JSON]


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The value with a text, the texts of a list, or the content of a message changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(each, change) for each in value]
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        return {**value, "content": change(value["content"])}
    return value


def text_of(value: Any) -> str:
    """The texts in the fields of a record, one after another on lines of their own."""
    return "\n".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, Mapping):
        # A message has a role, too.
        yield from _texts([value["content"]] if "content" in value else list(value.values()))


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The role and content of a message, and its weight if it has one, without any other keys."""
    weight = {"weight": message["weight"]} if message.get("weight") is not None else {}
    return {name: message.get(name) for name in ("role", "content")} | weight
