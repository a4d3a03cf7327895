"""`POST /v1/tasks/TASK`: every task and family is served, with the rows of `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import LABELS, Running

Served = Callable[[str], Running]
Generated = Callable[..., list[str]]

RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lm": ("language-modeling", {"text": "Shall I"}),
    "lstm": ("language-modeling", {"text": "Shall I"}),
    "chat": ("chat", {"messages": [{"role": "user", "content": "Shall I"}]}),
    "translation": ("translation", {"source": "Shall I"}),
    "summarization": ("summarization", {"document": "Shall I"}),
    "qa": ("question-answering", {"question": "Shall I"}),
    "classifier": ("classification", {"text": "Shall I"}),
    "decoder-classifier": ("classification", {"text": "Shall I"}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_every_task_is_answered_as_generate_answers_it(
    served: Served, generated: Generated, name: str
) -> None:
    task, record = RECORDS[name]
    records = [{"id": "a", **record}, "Shall I", {"id": 7, "prompt": "more 床前"}]
    status, document, _ = served(name).ask(f"/v1/tasks/{task}", {"records": records, "max_tokens": 12})
    assert status == 200, document
    assert (document["model"], document["task"]) == (name, task)
    rows = document["completions"]
    assert [row["id"] for row in rows[::2]] == ["a", "7"]
    assert [row["text"] for row in rows] == [generated(name, each)[0] for each in ("Shall I", "Shall I", "more 床前")]
    assert rows[0] == rows[1] | {"id": "a"}
    assert {"prompt", "finish_reason", "tokens"} <= rows[0].keys()
    if "classifier" in name:
        assert all(row["text"] in LABELS and row["finish_reason"] == "label" for row in rows)
    assert document["usage"]["completion_tokens"] == sum(row["tokens"] for row in rows)


def test_a_decoder_does_other_tasks_as_generate_does(served: Served, generated: Generated) -> None:
    status, document, _ = served("chat").ask("/v1/tasks/summarization", {"records": ["Shall I"], "max_tokens": 12})
    assert status == 200, document
    assert [row["text"] for row in document["completions"]] == generated("chat", "Shall I", "summarization")


def test_settings_of_a_task_are_those_of_generate(served: Served, generated: Generated) -> None:
    body = {"records": ["Shall I"], "max_tokens": 12}
    _, beams, _ = served("translation").ask("/v1/tasks/translation", body | {"num_beams": 3})
    assert [row["text"] for row in beams["completions"]] == generated("translation", "Shall I", num_beams=3)
    drawn = body | {"temperature": 1.3, "n": 2, "seed": 5}
    _, samples, _ = served("translation").ask("/v1/tasks/translation", drawn)
    expected = generated("translation", "Shall I", temperature=1.3, num_samples=2, seed=5)
    assert [row["text"] for row in samples["completions"]] == expected
    assert [row["sample"] for row in samples["completions"]] == [0, 1]


def test_an_alias_names_a_task_and_an_unknown_one_is_not_found(served: Served) -> None:
    assert served("lm").ask("/v1/tasks/lm", {"records": ["a"], "max_tokens": 1})[0] == 200
    for name in ("classification", "poetry", "%2e%2e", "<b>"):
        status, document, _ = served("lm").ask(f"/v1/tasks/{name}", {"records": ["a"]})
        assert (status, document["error"]["code"]) == (404, "task_not_found")


@pytest.mark.parametrize(
    ("name", "record", "param"),
    [
        ("translation", {"target": "x"}, "records[1].source"),
        ("translation", {"source": 5}, "records[1].source"),
        ("qa", {"question": None}, "records[1].question"),
        ("chat", {"messages": [{"role": "wizard", "content": "x"}]}, "records[1].messages[0]"),
        ("chat", {"messages": []}, "records[1].messages"),
        ("lm", {"text": "a", "id": [1]}, "records[1].id"),
    ],
)
def test_a_record_that_is_none_of_the_task_is_named(
    served: Served, name: str, record: dict[str, Any], param: str
) -> None:
    task, good = RECORDS[name]
    status, document, _ = served(name).ask(f"/v1/tasks/{task}", {"records": [good, record]})
    assert (status, document["error"]["param"]) == (422, param), document
    assert document["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", ["classifier", "decoder-classifier"])
def test_a_label_is_chosen_without_settings(served: Served, generated: Generated, name: str) -> None:
    for given in ({"temperature": 0.5}, {"n": 2}, {"stop": "x"}, {"num_beams": 2}, {"top_p": 0.5}):
        status, document, _ = served(name).ask("/v1/tasks/classification", {"records": ["a"], **given})
        assert (status, document["error"]["param"]) == (400, next(iter(given)))
    client = served(name).client()
    completion = client.completions.create(model=name, prompt=["more", "day"], temperature=0)
    assert [each.text for each in completion.choices] == [generated(name, each)[0] for each in ("more", "day")]
    assert {each.finish_reason for each in completion.choices} == {"stop"}
    streamed = list(client.completions.create(model=name, prompt="more", stream=True))
    assert "".join(each.choices[0].text for each in streamed) == generated(name, "more")[0]


def test_an_encoder_decoder_answers_text_prompts_as_its_task_does(served: Served, generated: Generated) -> None:
    client = served("translation").client()
    completion = client.completions.create(
        model="translation", prompt="Shall I", max_tokens=12, temperature=0, logprobs=1
    )
    assert [each.text for each in completion.choices] == generated("translation", "Shall I")
    streamed = client.completions.create(
        model="translation", prompt="Shall I", max_tokens=12, temperature=0, stream=True
    )
    assert "".join(each.choices[0].text for each in streamed) == generated("translation", "Shall I")[0]
