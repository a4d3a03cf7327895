"""Records of each task: what is in the loss, what the prompt is, which answers are correct, which records are refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl import registry
from llmctl.errors import DataError
from llmctl.tasks.spec import Task
from llmctl.types import Record


def task(name: str) -> Task:
    found: Task = registry.load("tasks", registry.find("tasks", name).name)()
    return found


def texts(segments: Any) -> list[tuple[str, str, bool]]:
    return [(segment.role, segment.text, segment.in_loss) for segment in segments]


def test_first_answer_of_a_question_is_the_target_and_every_answer_is_a_reference() -> None:
    record = Record("q", {"question": "Who?", "answers": ["Ann", "Anna"], "context": "Ann came."})
    prompt = [("source", "Ann came.", False), ("source", "Who?", False)]
    assert texts(task("qa").segments(record)) == [*prompt, ("target", "Ann", True)]
    assert texts(task("qa").prompt(record)) == prompt
    assert task("qa").references(record) == ("Ann", "Anna")


@pytest.mark.parametrize("context", [{}, {"context": None}, {"context": ""}])
def test_a_question_prompt_needs_neither_context_nor_answer(context: dict[str, Any]) -> None:
    record = Record("q", {"question": "Who?", **context})
    task("qa").check(record, task("qa").prompt_columns())
    assert texts(task("qa").prompt(record)) == [("source", "Who?", False)]


def test_a_summary_is_the_target_and_its_document_the_source() -> None:
    record = Record("s", {"document": "Long.", "summary": "Short."})
    assert texts(task("summarization").segments(record)) == [("source", "Long.", False), ("target", "Short.", True)]
    assert task("summarization").metrics == ("rouge",)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("qa", {"question": "a", "answers": []}, "has no answer"),
        ("qa", {"question": "a", "answers": "b"}, "expected list"),
        ("qa", {"question": "a", "answers": [1]}, "an answer is int"),
        ("qa", {"question": "a", "answers": ["b"], "context": 3}, "'context' is int"),
        ("summarization", {"document": "a"}, "'summary' is missing"),
        ("chat", {"messages": [{"role": "user", "content": "a"}]}, "nothing to train on"),
        ("chat", {"messages": [{"role": "pirate", "content": "a"}]}, "pirate"),
        ("chat", {"messages": [{"role": "assistant", "content": 3}]}, "content is int"),
    ],
)
def test_a_record_without_a_usable_target_is_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        task(name).check(Record("x", fields, "file:3"))
    assert (caught.value.where or "").startswith("file:3")


def test_plain_prompt_text_becomes_the_prompt_of_every_task() -> None:
    for entry in registry.entries("tasks"):
        each = task(entry.name)
        record = Record("", each.record_of("Hello"))
        each.check(record, each.prompt_columns())
        assert [segment.text for segment in each.prompt(record)] == ["Hello"]


def test_an_instruction_lists_the_labels_unless_there_are_many() -> None:
    assert task("classification").instruct(["bad", "good"]).endswith("The labels are: bad, good.")
    many = [str(number) for number in range(500)]
    assert task("classification").instruct(many) == task("classification").instruct() != ""
    assert task("chat").instruct() == task("lm").instruct() == ""
