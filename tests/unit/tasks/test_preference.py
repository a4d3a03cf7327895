"""Preference pairs in the layouts that people have, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.errors import DataError
from llmctl.tasks.preference import Preference
from llmctl.types import Adapting, Record

USER = {"role": "user", "content": "天空是什么颜色？"}
GOOD, BAD = "蓝色。", "不知道。"
FIELDS = {"prompt": [USER], "chosen": GOOD, "rejected": BAD}
TWICE = [USER, {"role": "assistant", "content": "蓝色。"}, {"role": "user", "content": "夜里呢？"}]


def test_the_question_after_earlier_answers_is_not_counted_as_unlearned() -> None:
    _, adapting = adapted({"prompt": TWICE, "chosen": [*TWICE, *said(GOOD)], "rejected": BAD})
    assert not adapting.changed
    assert not adapting.turns


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in texts]


def adapted(fields: dict[str, Any]) -> tuple[dict[str, Any], Adapting]:
    adapting = Adapting()
    record = Preference().adapt(Record("1", fields, "pairs.jsonl:1"), adapting)
    Preference().check(record)
    found = {name: record.fields[name] for name in ("prompt", "chosen", "rejected")}
    return found, adapting


@pytest.mark.parametrize(
    ("fields", "layout"),
    [
        (FIELDS, None),
        ({"prompt": USER["content"], "chosen": GOOD, "rejected": BAD}, "prompt as text"),
        ({"question": USER["content"], "chosen": GOOD, "rejected": BAD}, "question as text"),
        ({"prompt": [USER], "chosen": said(GOOD), "rejected": said(BAD)}, None),
        ({"prompt": USER["content"], "chosen": [USER, *said(GOOD)], "rejected": [USER, *said(BAD)]}, "prompt as text"),
        ({"chosen": [USER, *said(GOOD)], "rejected": [USER, *said(BAD)]}, "conversations that end in the answers"),
        (
            {
                "chosen": f"\n\nHuman: {USER['content']}\n\nAssistant: {GOOD}",
                "rejected": f"\n\nHuman: {USER['content']}\n\nAssistant: {BAD}",
            },
            "conversations that end in the answers",
        ),
        (
            {
                "conversations": [{"from": "human", "value": USER["content"]}],
                "chosen": {"from": "gpt", "value": GOOD},
                "rejected": {"from": "gpt", "value": BAD},
            },
            "the prompt in conversations",
        ),
    ],
)
def test_common_layouts_of_pairs_are_read_alike_and_named(fields: dict[str, Any], layout: str | None) -> None:
    found, adapting = adapted(fields)
    assert found == FIELDS
    assert list(adapting.layouts) == ([layout] if layout else [])


def test_the_common_turns_of_two_conversations_are_the_prompt() -> None:
    found, _ = adapted({"chosen": [*TWICE, *said("黑色。")], "rejected": [*TWICE, *said("绿色。")]})
    assert found == {"prompt": TWICE, "chosen": "黑色。", "rejected": "绿色。"}


def test_a_system_column_becomes_the_first_turn() -> None:
    found, _ = adapted(FIELDS | {"system": "回答要短。"})
    assert found["prompt"] == [{"role": "system", "content": "回答要短。"}, USER]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the two answers are equal"),
        ({"prompt": "a", "chosen": "b"}, "the field 'rejected' is missing"),
        ({"chosen": "b", "rejected": "c"}, "the field 'prompt' is missing"),
        (
            {"prompt": [USER], "chosen": [*TWICE, *said("x")], "rejected": BAD},
            "the answer has 3 turns beside the prompt",
        ),
        ({"prompt": [USER], "chosen": [7], "rejected": BAD}, "the message is int"),
        ({"prompt": [USER, *said("x")], "chosen": GOOD, "rejected": BAD}, "the prompt ends in a turn of the assistant"),
        ({"prompt": "a", "chosen": None, "rejected": "c"}, "the field 'chosen' is null"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        adapted(fields)
    assert "pairs.jsonl:1:" in str(caught.value)
