"""What a task is: one definition of an example, shared by every verb and every model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from llmctl.errors import DataError, MissingField
from llmctl.readable import found_fields
from llmctl.types import Adapting, Audio, Family, Modality, Record, Role, Segment

MAX_LISTED_LABELS: Final = 20


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a record."""

    name: str
    kind: type = str
    required: bool = True


class Task(ABC):
    """Turns records into training segments and prompts, and answers into predictions; names the default metrics.

    A task handles text only: the layout adds token ids and control tokens. No task knows a model by name.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]]
    families: ClassVar[tuple[Family, ...]]
    """Families that can be trained on it, the best suited first."""
    pretrain_only: ClassVar[tuple[Family, ...]] = ()
    """Of `families`, those that can only be pre-trained on it, to be fine-tuned on another task; they take no prompt."""
    also: ClassVar[tuple[str, ...]] = ()
    """Columns besides `columns` that `adapt` reads."""
    metrics: ClassVar[tuple[str, ...]]
    """Default metrics, by registry name."""
    packed: ClassVar[bool] = False
    """Documents are concatenated and cut into blocks of equal length."""
    labelled: ClassVar[bool] = False
    """Each answer is one of a closed set of labels."""
    pairs: ClassVar[bool] = False
    """Each record has two answers, of which the first is preferred. A model trained on it answers the task that it
    answered before (`llmctl/compatibility.py:answering_task`)."""
    modality: ClassVar[Modality] = "text"
    """What it asks about: a text, or a recording in a column of the kind `Audio`."""
    answer_role: ClassVar[Role] = "target"
    """The role of the segment that holds the answer."""
    instruction: ClassVar[str] = ""
    """Default instruction for the prompt formats that use one (see `data/examples/layout.py`)."""

    @property
    def takes_instruction(self) -> bool:
        """Whether prompts may carry an instruction: plain text to continue and conversations are used verbatim."""
        return not self.packed and self.answer_role != "assistant"

    @property
    def promptable(self) -> tuple[Family, ...]:
        """Families that can be prompted with it. Of preference pairs none: their models answer another task."""
        return () if self.pairs else tuple(family for family in self.families if family not in self.pretrain_only)

    @property
    def audio_columns(self) -> tuple[str, ...]:
        """The columns that hold recordings."""
        return tuple(column.name for column in self.columns if column.kind is Audio)

    def instruct(self, labels: Sequence[str] = (), instruction: str | None = None) -> str:
        """The instruction text. None selects the task's own; up to `MAX_LISTED_LABELS` labels are listed after it."""
        text = self.instruction if instruction is None else instruction
        if not (self.labelled and text and 0 < len(labels) <= MAX_LISTED_LABELS):
            return text
        return f"{text} The labels are: {', '.join(labels)}."

    @abstractmethod
    def segments(self, record: Record) -> list[Segment]:
        """The training segments of a record, in order; `in_loss` marks the targets."""

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        """The record in the task's own layout, from any common one. Raises `DataError` for what it cannot express."""
        return record

    @abstractmethod
    def record_of(self, prompt: str) -> Mapping[str, Any]:
        """The fields of a record whose prompt is this plain text, as `generate --prompt` gives it."""

    def prompt(self, record: Record) -> list[Segment]:
        """The segments that are not in the loss. Fields that the record lacks, such as the answer's, are filled with
        empty values, so that `segments` can read them."""
        empty = {column.name: column.kind() for column in self.columns if column.name not in record.fields}
        filled = replace(record, fields={**empty, **record.fields})
        return [segment for segment in self.segments(filled) if not segment.in_loss]

    def references(self, record: Record) -> tuple[str, ...]:
        """Every correct answer."""
        return tuple(segment.text for segment in self.segments(record) if segment.in_loss)

    def read(self, answer: str) -> str:
        """Extract the prediction from a model's output."""
        return answer.strip()

    def prompt_columns(self) -> tuple[Column, ...]:
        """The columns that inference needs (not training or scoring): the required ones that `record_of` fills."""
        requested = self.record_of("")
        return tuple(column for column in self.columns if column.required and column.name in requested)

    def _fields_text(self, columns: Sequence[Column] | None) -> str:
        """Describe the required and the optional fields of a record."""
        needed = [column.name for column in (self.columns if columns is None else columns) if column.required]
        optional = [*(column.name for column in self.columns if not column.required), "id"]
        return f"required fields: {', '.join(needed)}; optional: {', '.join(optional)}"

    def _named_columns(self, record: Record, columns: Sequence[Column] | None) -> str:
        """The value of `--columns` for the required fields that a record lacks: a column that differs in case alone, or one
        to be named."""
        folded = {name.casefold(): name for name in record.fields}
        missing = [
            column.name
            for column in (self.columns if columns is None else columns)
            if column.required and record.fields.get(column.name) is None
        ]
        return ",".join(f"{name}={folded.get(name, 'YOUR_COLUMN')}" for name in missing)

    def check(self, record: Record, columns: Sequence[Column] | None = None) -> None:
        """Raise `DataError` naming the first field that is missing or of the wrong type."""
        for column in self.columns if columns is None else columns:
            value = record.fields.get(column.name)
            where = f"{record.origin}:{column.name}" if record.origin else column.name
            if value is None:
                if column.required and column.name in record.fields:
                    raise DataError(f"the field {column.name!r} is null", where=where)
                if column.required:
                    raise MissingField(
                        f"the field {column.name!r} is missing; fields found: {found_fields(record.fields)}",
                        where=where,
                        hint=self._fields_text(columns),
                        columns=self._named_columns(record, columns),
                    )
            elif not isinstance(value, column.kind):
                raise DataError(
                    f"the field {column.name!r} is {type(value).__name__}, expected {column.kind.__name__}", where=where
                )
