"""What a task is: the one definition of an example that every verb and every model family shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from llmctl.errors import DataError, MissingField
from llmctl.types import Family, Record, Role, Segment

MAX_LISTED_LABELS: Final = 20


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a record."""

    name: str
    kind: type = str
    required: bool = True


class Task(ABC):
    """Record -> segments to learn or prompt to answer; answer -> prediction; how it is scored.

    A task knows text only: token ids and control tokens are the layout's, and no task knows a model by name.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]]
    families: ClassVar[tuple[Family, ...]]
    """Families that learn it, the most fitting first."""
    pretrain_only: ClassVar[tuple[Family, ...]] = ()
    """Those of them that learn from it and cannot be asked it: a beginning to be fine-tuned on another task."""
    metrics: ClassVar[tuple[str, ...]]
    """Default metrics, by registry name."""
    packed: ClassVar[bool] = False
    """Documents are joined and cut into blocks of one length."""
    labelled: ClassVar[bool] = False
    """Answers are one of a closed set of labels."""
    answer_role: ClassVar[Role] = "target"
    """The role in which a model answers."""
    instruction: ClassVar[str] = ""
    """What a model that was given its weights elsewhere is told to do; see `data/layout.py` for which styles."""

    @property
    def takes_instruction(self) -> bool:
        """Whether a record can be put with an instruction: a text to go on from and a conversation are put as they are."""
        return not self.packed and self.answer_role != "assistant"

    @property
    def promptable(self) -> tuple[Family, ...]:
        """Families that can be asked it."""
        return tuple(family for family in self.families if family not in self.pretrain_only)

    def instruct(self, labels: Sequence[str] = (), instruction: str | None = None) -> str:
        """The instruction, the task's own where None is given; for a labelled task with the labels to choose among, where
        they are few."""
        text = self.instruction if instruction is None else instruction
        if not (self.labelled and text and 0 < len(labels) <= MAX_LISTED_LABELS):
            return text
        return f"{text} The labels are: {', '.join(labels)}."

    @abstractmethod
    def segments(self, record: Record) -> list[Segment]:
        """All that a model sees of the record in training, in order, with what is learned marked."""

    @abstractmethod
    def record_of(self, prompt: str) -> Mapping[str, Any]:
        """The fields of a record that asks `prompt`, the bare text of `generate --prompt`."""

    def prompt(self, record: Record) -> list[Segment]:
        """What a model is asked: the segments before the answer. The fields of an answer, which a prompt lacks, are
        empty: `segments` may look at them all the same."""
        empty = {column.name: column.kind() for column in self.columns}
        filled = replace(record, fields={**empty, **record.fields})
        return [segment for segment in self.segments(filled) if not segment.in_loss]

    def references(self, record: Record) -> tuple[str, ...]:
        """Every right answer."""
        return tuple(segment.text for segment in self.segments(record) if segment.in_loss)

    def read(self, answer: str) -> str:
        """The prediction in a model's answer."""
        return answer.strip()

    def prompt_columns(self) -> tuple[Column, ...]:
        """The fields that a record needs to be asked (not learned or scored): those that a bare prompt fills."""
        requested = self.record_of("")
        return tuple(column for column in self.columns if column.required and column.name in requested)

    def _fields_text(self, columns: Sequence[Column] | None) -> str:
        """The fields that a record has, and those that it may have."""
        needed = [column.name for column in (self.columns if columns is None else columns) if column.required]
        optional = [*(column.name for column in self.columns if not column.required), "id"]
        return f"a record has {' and '.join(needed)}, and may have {' and '.join(optional)}"

    def check(self, record: Record, columns: Sequence[Column] | None = None) -> None:
        """Raise `DataError` naming the first field that is missing or of the wrong type."""
        for column in self.columns if columns is None else columns:
            value = record.fields.get(column.name)
            where = f"{record.origin}:{column.name}" if record.origin else column.name
            if value is None:
                if column.required:
                    raise MissingField(
                        column.name,
                        f"the field {column.name!r} is missing; the record has {', '.join(record.fields) or 'none'}",
                        where=where,
                        hint=self._fields_text(columns),
                    )
            elif not isinstance(value, column.kind):
                raise DataError(
                    f"the field {column.name!r} is {type(value).__name__}, expected {column.kind.__name__}", where=where
                )
