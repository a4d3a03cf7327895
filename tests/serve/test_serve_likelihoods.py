"""`eval --model openai:NAME@URL` of `llmctl serve` gives the scores of the same `eval` in this process."""

from __future__ import annotations

import concurrent.futures
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.types import Record
from llmctl.workflows.inference.model import find_model
from llmctl.workflows.inference.requests import open_request_builder
from tests.serve.conftest import Running, Serving, until

Served = Callable[[str], Running]
Folders = Callable[[str], Path]
Inside = Callable[..., dict[str, Any]]

LONG = "Shall I compare thee to a summer's day? " * 12
LIKELIHOODS = "/v1/tasks/language-modeling/likelihoods"
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


def test_a_long_text_with_a_stride_of_one_is_refused_before_it_is_scored(served: Served) -> None:
    server = served("lm")
    for body in ({"records": ["day " * 12_000], "stride": 1}, {"records": ["a"] * 10_001}):
        status, document, _ = server.ask(LIKELIHOODS, body)
        assert (status, document["error"]["param"]) == (400, "records"), document
    status, document, _ = server.ask(LIKELIHOODS, {"records": ["day " * 6_000] * 2, "stride": 1})
    assert status == 400
    assert (
        "more than 10,000 windows of 128 tokens, 1 apart: send fewer or shorter records" in document["error"]["message"]
    )
    assert server.load == 0


@pytest.mark.parametrize("stride", [1, 7, 16])
def test_windows_are_made_as_they_are_scored(folders: Folders, stride: int) -> None:
    builder = open_request_builder(find_model(str(folders("lm"))))
    text = Record("1", {"text": "Shall I compare thee " * 1_000})
    builder.loglikelihood_requests(text, 16, stride)
    tracemalloc.start()
    scoring = builder.loglikelihood_requests(text, 128, stride)
    tokens = windows = 0
    _, laid_out = tracemalloc.get_traced_memory()
    for request in scoring.requests:
        tokens, windows = tokens + len(request.answer_ids), windows + 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert windows == scoring.windows
    assert windows == 1 + -(-(tokens - 128) // stride)
    assert peak < laid_out + 100_000  # the window before is gone


def test_request_timeout_is_that_of_all_windows_of_a_request(serving: Serving) -> None:
    with serving("lm", request_timeout=0.3) as server:
        status, document, _ = server.ask(LIKELIHOODS, {"records": ["day " * 9_000], "stride": 1})
        assert (status, document["error"]["code"]) == (504, "timeout")
        until(lambda: server.load == 0)
        assert server.ask(LIKELIHOODS, {"records": ["a"]})[0] == 200


def asked_until(server: Running, path: str, done: concurrent.futures.Future[Any]) -> set[int]:
    """The statuses of short requests, one after the other until something is done."""
    found = set()
    while not done.done():
        found.add(server.ask(path, {"records": ["a"]})[0])
    return found


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("lm", LIKELIHOODS, {"records": ["day " * 500], "stride": 1}),
        ("decoder-classifier", "/v1/tasks/classification", {"records": ["day"] * 100}),
    ],
)
def test_what_is_being_scored_is_not_dropped_because_the_queue_fills(
    serving: Serving, name: str, path: str, body: dict[str, Any]
) -> None:
    with serving(name, max_batch=1, max_queue=1) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        scored = pool.submit(server.ask, path, body)
        until(lambda: server.load == 1 or scored.done())
        others = [pool.submit(asked_until, server, path.removesuffix("/likelihoods"), scored) for _ in range(6)]
        assert set().union(*(each.result() for each in others)) <= {200, 429}
        assert scored.result()[0] == 200, scored.result()


def test_metrics_count_the_tokens_that_are_scored(serving: Serving) -> None:
    with serving("lm") as server:
        server.ask(LIKELIHOODS, {"records": [{"text": "a"}, "月"]})
        assert server.metric("llmctl_prompt_tokens_total") == 7  # with a begin token each
        assert server.metric("llmctl_answer_tokens_total") == 0


@pytest.mark.parametrize("name", ["classifier", "decoder-classifier"])
def test_a_classifier_has_no_likelihood_of_a_text(served: Served, name: str) -> None:
    records = [{"text": "Shall I", "label": "good"}]
    status, document, _ = served(name).ask("/v1/tasks/classification/likelihoods", {"records": records})
    assert status == 422, document
    assert "answers with labels: use /v1/tasks/classification" in document["error"]["message"]


def test_an_instruction_that_the_server_would_not_use_is_refused(
    served: Served, inside: Inside, tmp_path: Path
) -> None:
    data = tmp_path / "records.jsonl"
    data.write_text(json.dumps({"source": "Shall I", "target": "day"}) + "\n")
    words = ["eval", "--data", data, "--set", "instruction=Translate.", "--metric", "bleu"]
    for name, task, said in (
        ("translation", "translation", "instruction has no effect"),
        ("chat", "chat", "chat has none"),
    ):
        model = f"openai:{name}@{served(name).url}/v1"
        error = inside(*words, "--model", model, "--set", f"task={task}", code=2)["error"]
        assert said in error["message"], error
