"""Records of each task: what is learned of them, what is asked, what is right, and which are refused."""

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


def test_a_question_learns_its_first_answer_and_every_one_is_right() -> None:
    record = Record("q", {"question": "Who?", "answers": ["Ann", "Anna"], "context": "Ann came."})
    asked = [("source", "Ann came.", False), ("source", "Who?", False)]
    assert texts(task("qa").segments(record)) == [*asked, ("target", "Ann", True)]
    assert texts(task("qa").prompt(record)) == asked
    assert task("qa").references(record) == ("Ann", "Anna")


@pytest.mark.parametrize("context", [{}, {"context": None}, {"context": ""}])
def test_a_question_needs_no_context_and_to_be_asked_no_answer(context: dict[str, Any]) -> None:
    record = Record("q", {"question": "Who?", **context})
    task("qa").check(record, task("qa").prompt_columns())
    assert texts(task("qa").prompt(record)) == [("source", "Who?", False)]


def test_a_summary_is_learned_given_the_document() -> None:
    record = Record("s", {"document": "Long.", "summary": "Short."})
    assert texts(task("summarization").segments(record)) == [("source", "Long.", False), ("target", "Short.", True)]
    assert task("summarization").metrics == ("rouge",)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("qa", {"question": "a", "answers": []}, "without an answer"),
        ("qa", {"question": "a", "answers": "b"}, "expected list"),
        ("qa", {"question": "a", "answers": [1]}, "an answer is int"),
        ("qa", {"question": "a", "answers": ["b"], "context": 3}, "'context' is int"),
        ("summarization", {"document": "a"}, "'summary' is missing"),
        ("chat", {"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ("chat", {"messages": [{"role": "pirate", "content": "a"}]}, "pirate"),
        ("chat", {"messages": [{"role": "assistant", "content": 3}]}, "content is int"),
    ],
)
def test_a_record_that_teaches_nothing_is_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        task(name).check(Record("x", fields, "file:3"))
    assert (caught.value.where or "").startswith("file:3")


def test_the_bare_text_of_a_prompt_is_what_is_asked() -> None:
    for entry in registry.entries("tasks"):
        each = task(entry.name)
        record = Record("", each.record_of("Hello"))
        each.check(record, each.prompt_columns())
        assert [segment.text for segment in each.prompt(record)] == ["Hello"]


def test_an_instruction_names_the_labels_where_they_are_few() -> None:
    assert task("classification").instruct(["bad", "good"]).endswith("The labels are: bad, good.")
    many = [str(number) for number in range(500)]
    assert task("classification").instruct(many) == task("classification").instruct() != ""
    assert task("chat").instruct() == task("lm").instruct() == ""
