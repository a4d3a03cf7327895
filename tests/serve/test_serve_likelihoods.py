"""`eval --model openai:NAME@URL` of `llmctl serve` gives the scores of the same `eval` in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Running

Served = Callable[[str], Running]
Folders = Callable[[str], Path]
Inside = Callable[..., dict[str, Any]]

LONG = "Shall I compare thee to a summer's day? " * 12
RECORDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "lm": (
        "language-modeling",
        [{"text": "Shall I compare"}, {"text": "床前明月光，疑是"}, {"text": LONG}, {"text": "a"}],
    ),
    "lstm": ("language-modeling", [{"text": "Shall I compare"}, {"text": LONG}]),
    "translation": ("translation", [{"source": "Shall I", "target": "床前明月"}, {"source": "more", "target": "day"}]),
    "summarization": ("summarization", [{"document": LONG, "summary": "a day"}]),
    "qa": ("question-answering", [{"question": "Shall I?", "answer": "more lovely"}]),
    "chat": (
        "chat",
        [{"messages": [{"role": "user", "content": "Shall I?"}, {"role": "assistant", "content": "疑是 day"}]}],
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_scores_are_those_of_eval_in_this_process(
    served: Served, folders: Folders, inside: Inside, tmp_path: Path, name: str
) -> None:
    task, records = RECORDS[name]
    data = tmp_path / "records.jsonl"
    data.write_text("".join(json.dumps({"id": str(n), **each}) + "\n" for n, each in enumerate(records)), "utf-8")
    words = ["--data", data, "--set", f"task={task}", "--metric", "perplexity", "--metric", "bits_per_byte"]
    for more in ([], ["--set", "window=24"]) if name == "lm" else ([],):
        here = inside("eval", "--model", folders(name), *words, *more)["scores"]
        there = inside("eval", "--model", f"openai:{name}@{served(name).url}/v1", *words, *more)["scores"]
        assert [each["value"] for each in there] == pytest.approx([each["value"] for each in here], rel=1e-6)
        assert [each["signature"] for each in there] == [each["signature"] for each in here]


def test_likelihoods_of_records_count_the_end_token(served: Served) -> None:
    server = served("lm")
    status, document, _ = server.ask("/v1/tasks/language-modeling/likelihoods", {"records": [{"text": "a"}, "月"]})
    assert status == 200, document
    assert [(row["tokens"], row["bytes"]) for row in document["likelihoods"]] == [(2, 1), (3, 3)]
    assert document["facts"]["precision"] == "fp32"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"records": [{"source": "x"}]}, 422, "records[0].text"),
        ({"records": [{"text": "x"}], "window": 100_000}, 400, "window"),
        ({"records": [{"text": "x"}], "stride": 0}, 400, "stride"),
        ({"records": []}, 400, "records"),
        ({"records": [{"text": "x"}], "temperature": 1}, 400, "temperature"),
    ],
)
def test_what_cannot_be_scored_is_refused(served: Served, body: dict[str, Any], status: int, param: str) -> None:
    found, document, _ = served("lm").ask("/v1/tasks/language-modeling/likelihoods", body)
    assert (found, document["error"]["param"]) == (status, param), document


def test_an_answer_that_does_not_fit_is_refused(served: Served) -> None:
    records = [{"source": "x", "target": LONG}]
    status, document, _ = served("translation").ask("/v1/tasks/translation/likelihoods", {"records": records})
    assert status == 422
    assert "context" in document["error"]["message"]
