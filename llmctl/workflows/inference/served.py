"""A record in words, for a server that lays it out by its own template."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.tasks.spec import Task
from llmctl.types import Family, Record, Segment, Wording


def in_words(task: Task, instruction: str, record: Record, segments: Sequence[Segment]) -> Wording:
    """A text to be continued as it is, a conversation as its messages, anything else as one message after the
    instruction."""
    texts = [segment.text for segment in segments]
    if task.packed:
        return Wording(task.name, record.fields, text="".join(texts))
    if task.answer_role == "assistant":
        return Wording(task.name, record.fields, tuple((segment.role, segment.text) for segment in segments))
    before = [instruction] if instruction else []
    return Wording(task.name, record.fields, (("user", "\n\n".join([*before, *texts])),))


class ServerLayout:
    """What is known of the layout of a server: the instruction that goes with each record."""

    family: Family = "decoder"
    tokenizer = None
    context = None

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction

    def encode(self, text: str) -> list[str]:
        """The words of a text, of which only the number is used."""
        return text.split()
