"""Question answering: a question, optionally with a context that holds the answer; several answers may be correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmctl.errors import DataError
from llmctl.tasks import answers
from llmctl.tasks.spec import Column, Task
from llmctl.types import Adapting, Record, Segment


class QuestionAnswering(Task):
    """`{question, answers: [..], context?}`: the first answer is the training target; any of them counts as correct."""

    name = "question-answering"
    columns = (Column("question"), Column("answers", list), Column("context", required=False))
    families = ("encoder-decoder", "decoder")
    metrics = ("exact_match", "f1")
    also = ("answer", "is_impossible", "evidences")
    instruction = "Answer the question in a few words."

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        """Reads SQuAD, HotpotQA, WebQA, Alpaca, `prompt, completion` and a single answer as text too."""
        where = f"{record.origin}:" if record.origin else ""
        return replace(record, fields=answers.question(record.fields, adapting, where))

    def segments(self, record: Record) -> list[Segment]:
        return [*self.prompt(record), Segment("target", record.fields["answers"][0], in_loss=True)]

    def prompt(self, record: Record) -> list[Segment]:
        """The context first, so that the question is next to its answer."""
        context, question = record.fields.get("context"), Segment("source", record.fields["question"])
        return [Segment("source", context), question] if context else [question]

    def references(self, record: Record) -> tuple[str, ...]:
        return tuple(record.fields["answers"])

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"question": prompt}

    def prompt_columns(self) -> tuple[Column, ...]:
        return (self.columns[0], self.columns[2])

    def check(self, record: Record, columns: Sequence[Column] | None = None) -> None:
        super().check(record, columns)
        if columns is not None:
            return
        where = f"{record.origin}:answers" if record.origin else "answers"
        answers = record.fields["answers"]
        if not answers:
            raise DataError("the question has no answer", where=where)
        wrong = next((each for each in answers if not isinstance(each, str)), None)
        if wrong is not None:
            raise DataError(f"an answer is {type(wrong).__name__}, expected str", where=where)
