"""A record's split depends on its content alone."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from llmctl.data.cleaning.judge import Admissible, DroppedRecord, Judge
from llmctl.data.cleaning.split import content_hash, split_of, why_empty
from llmctl.data.spec import Clean, Splits
from llmctl.tasks.chat import Chat
from llmctl.tasks.classification import Classification
from llmctl.tasks.language_modeling import LanguageModeling
from llmctl.tasks.spec import Task
from llmctl.types import Record


def judge(task: Task | None = None, clean: Clean | None = None) -> Judge:
    task = task or LanguageModeling()
    return Judge(task, [column.name for column in task.columns], clean or Clean(), Splits())


def test_shares_are_near_the_fractions() -> None:
    splits = Splits(validation=0.1, test=0.2)
    found = Counter(split_of(hashlib.md5(str(n).encode()).digest(), splits) for n in range(20_000))
    assert found["test"] == pytest.approx(4000, rel=0.05)
    assert found["validation"] == pytest.approx(2000, rel=0.08)


def test_another_validation_fraction_moves_nothing_into_or_out_of_test() -> None:
    digests = [hashlib.md5(str(n).encode()).digest() for n in range(2_000)]
    one, other = Splits(validation=0.1, test=0.1), Splits(validation=0.4, test=0.1)
    assert [split_of(d, one) == "test" for d in digests] == [split_of(d, other) == "test" for d in digests]


def test_a_train_split_is_divided_again_only_by_another_seed() -> None:
    digests = [hashlib.md5(str(n).encode()).digest() for n in range(2_000)]
    train = [digest for digest in digests if split_of(digest, Splits()) == "train"]
    assert {split_of(digest, Splits()) for digest in train} == {"train"}
    again = Counter(split_of(digest, Splits(seed=1)) for digest in train)
    assert again["validation"] == pytest.approx(len(train) / 10, rel=0.2)
    assert "--set splits.seed=1" in why_empty("validation", len(train), Splits())
    assert why_empty("test", 40, Splits()) == "40 records are too few for its fraction"


def test_the_hash_covers_only_the_task_columns() -> None:
    assert content_hash({"text": "a", "id": 1}, ["text"]) == content_hash({"text": "a", "id": 2}, ["text"])
    two = ["source", "target"]
    assert content_hash({"source": "ab", "target": "c"}, two) != content_hash({"source": "a", "target": "bc"}, two)


def test_the_split_does_not_depend_on_what_came_before() -> None:
    alone = {}
    for n in range(50):
        found = judge().judge(Record("", {"text": f"text {n}"}, "f:1"))
        assert isinstance(found, Admissible)
        alone[n] = found.split
    chosen = judge()
    for n in reversed(range(50)):
        found = chosen.judge(Record(f"id {n}", {"text": f"text   {n} "}, "g:9"))
        assert isinstance(found, Admissible)
        assert found.split == alone[n]


def test_reasons() -> None:
    chosen = judge(clean=Clean(min_chars=3))
    rows = ["\u200a\n", "ab", "abc", " abc\x00 ", "abd"]
    found = [chosen.judge(Record("", {"text": row}, "f:1")) for row in rows]
    reasons = [each.reason if isinstance(each, DroppedRecord) else "kept" for each in found]
    assert reasons == ["empty", "too_short", "kept", "kept", "kept"]
    digests = [each.digest for each in found if isinstance(each, Admissible)]
    assert digests[0] == digests[1] != digests[2]


def test_labels_are_not_cleaned() -> None:
    found = judge(Classification(), Clean(lowercase=True)).judge(
        Record("", {"text": "Good", "label": " Very  GOOD "}, "f:1")
    )
    assert isinstance(found, Admissible)
    assert found.record.fields == {"text": "good", "label": "Very  GOOD"}
    assert found.label == "Very  GOOD"


def test_a_conversation_keeps_only_role_and_content() -> None:
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "a  b", "name": "me"}]
    found = judge(Chat()).judge(Record("", {"messages": turns}, "f:1"))
    assert isinstance(found, Admissible)
    assert found.record.fields["messages"] == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "a b"},
    ]
