"""A model that learned to call tools: preprocessed, trained, asked by `generate`, scored by `eval`, and served to the `openai` client."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.workflows.serve.calls import CallSyntax
from tests.conftest import Run
from tests.serve.conftest import Running, running
from tests.tool_templates import HERMES, tokenizer_with

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "上海"}'}}
ASKED = {"role": "user", "content": "上海天气怎么样？"}
CALLED = {"role": "assistant", "content": "我看看。", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c", "content": "晴"}
SAID = {"role": "assistant", "content": "上海晴。"}
HELLO = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
WRITTEN = '我看看。\n<tool_call>\n{"name": "weather", "arguments": {"city": "上海"}}\n</tool_call>'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llmctl: Run) -> Path:
    """A folder with the model of a run that learned two conversations by heart."""
    root = tmp_path_factory.mktemp("tools")
    rows = [{"messages": [ASKED, CALLED, ANSWERED, SAID], "tools": [TOOL]}, {"messages": HELLO, "tools": [TOOL]}]
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer_with(HERMES, root / "tokenizer")
    whole = ("--set", "splits.test=0", "--set", "splits.validation=0")
    words = ("--task", "chat", "--tokenizer", "tokenizer", *whole, "--out", "data")
    done = llmctl("preprocess", "a.jsonl", *words, cwd=root)
    assert done.returncode == 0, done.stderr
    small = ("--set", "model.context=512", "--set", "model.hidden=64", "--set", "model.layers=2")
    steps = ("--max-steps", "100", "--batch-size", "2", "--lr", "0.008")
    done = llmctl("train", "--data", "data", "--model", "llama:nano", *small, *steps, "--out", "run", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Running]:
    with running(trained / "run" / "model") as found:
        yield found


def test_the_client_gets_calls_answers_them_and_gets_the_answer(server: Running) -> None:
    with server.client() as client:
        more: dict[str, Any] = {"model": "run", "tools": [TOOL], "temperature": 0, "max_tokens": 120}
        answer = client.chat.completions.create(messages=[ASKED], **more).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content == "我看看。"
        assert answer.message.tool_calls is not None
        [call] = answer.message.tool_calls
        assert (call.type, json.loads(call.function.arguments)) == ("function", {"city": "上海"})  # type: ignore[union-attr]
        result = {"role": "tool", "tool_call_id": call.id, "content": "晴"}
        messages: list[Any] = [ASKED, answer.message, result]
        last = client.chat.completions.create(messages=messages, **more).choices[0]
        assert (last.message.content, last.message.tool_calls, last.finish_reason) == ("上海晴。", None, "stop")


def test_a_stream_gives_text_at_once_and_calls_at_its_end(server: Running) -> None:
    body = {"messages": [ASKED], "tools": [TOOL], "temperature": 0, "max_tokens": 120, "stream": True}
    chunks = [json.loads(each)["choices"][0] for each in server.stream("/v1/chat/completions", body)[:-1]]
    texts = [each["delta"]["content"] for each in chunks if each["delta"].get("content")]
    assert ("".join(texts), len(texts) > 1) == ("我看看。", True)
    [calls] = [each["delta"]["tool_calls"] for each in chunks if "tool_calls" in each["delta"]]
    assert [(each["index"], each["function"]["name"]) for each in calls] == [(0, "weather")]
    assert chunks[-1]["finish_reason"] == "tool_calls"
    hello = {**body, "messages": HELLO[:1]}
    chunks = [json.loads(each)["choices"][0] for each in server.stream("/v1/chat/completions", hello)[:-1]]
    assert ("".join(each["delta"].get("content", "") for each in chunks), chunks[-1]["finish_reason"]) == (
        "你好！",
        "stop",
    )


def test_a_call_that_is_cut_off_is_text_and_ends_by_length(server: Running) -> None:
    body = {"messages": [ASKED], "tools": [TOOL], "temperature": 0, "max_tokens": 30}
    _, document, _ = server.ask("/v1/chat/completions", body)
    [choice] = document["choices"]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("length", False)
    assert WRITTEN.startswith(choice["message"]["content"])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"messages": [ASKED, CALLED | {"tool_calls": [{"id": "1"}]}, ANSWERED]}, "messages[1].tool_calls"),
        ({"messages": [ASKED | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [ASKED | {"tool_call_id": "c"}]}, "messages[0].tool_call_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_followed_is_refused_by_name(server: Running, more: dict[str, Any], param: str) -> None:
    status, document, _ = server.ask("/v1/chat/completions", {"messages": [ASKED], "tools": [TOOL]} | more)
    assert (status, document["error"]["param"]) == (400, param)


def test_tools_that_may_not_be_called_are_not_offered(server: Running) -> None:
    body = {"messages": [ASKED], "tools": [TOOL], "tool_choice": "none", "max_tokens": 1}
    _, document, _ = server.ask("/v1/chat/completions", body)
    _, plain, _ = server.ask("/v1/chat/completions", {"messages": [ASKED], "max_tokens": 1})
    assert document["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_a_connection_ends_while_the_template_is_kept_ready(server: Running) -> None:
    body = {"messages": [ASKED], "tools": [TOOL], "max_tokens": 1}
    status, _, headers = server.ask("/v1/chat/completions", body, headers={"Connection": "close"})
    assert (status, headers.get("connection")) == (200, "close")
    with socket.create_connection(server.host, timeout=20) as connection:
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        while connection.recv(65536):
            pass


def test_generate_writes_calls_as_the_template_does_and_eval_scores_them(trained: Path, llmctl: Run) -> None:
    row = {"id": "1", "messages": [ASKED, CALLED], "tools": [TOOL]}
    (trained / "calls.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = llmctl("generate", "--model", "run", "--input", "calls.jsonl", "--max-new-tokens", "120", cwd=trained)
    assert (done.returncode, json.loads(done.stdout)["text"]) == (0, WRITTEN), done.stderr
    metrics = ("--metric", "exact_match", "--metric", "perplexity", "--set", "max_new_tokens=120")
    done = llmctl("eval", "--model", "run", "--data", "calls.jsonl", *metrics, "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    scores = {each["metric"]: each["value"] for each in json.loads(done.stdout)["scores"]}
    assert (scores["exact_match"], scores["perplexity"] < 1.1) == (1.0, True)


def test_a_server_of_ours_is_handed_tools_on(server: Running, trained: Path, llmctl: Run) -> None:
    rows = [{"id": "1", "messages": [ASKED], "tools": [TOOL]}, {"id": "2", "prompt": ASKED["content"], "tools": [TOOL]}]
    (trained / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = f"openai:run@{server.url}/v1"
    done = llmctl("generate", "--model", model, "--input", "asked.jsonl", "--max-new-tokens", "120", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [WRITTEN, WRITTEN]


def test_a_prompt_that_is_too_long_loses_its_oldest_exchanges_and_says_so(trained: Path, llmctl: Run) -> None:
    talk = [{"role": "user", "content": "好" * 60}, {"role": "assistant", "content": "好" * 60}]
    (trained / "long.jsonl").write_text(json.dumps({"messages": [*talk, *talk, ASKED], "tools": [TOOL]}) + "\n")
    words = ("--model", "run", "--input", "long.jsonl", "--max-new-tokens", "120")
    done = llmctl("generate", *words, "--truncate", "left", cwd=trained)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["text"], answer["truncated_tokens"] > 700) == (0, WRITTEN, True)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('<c>{"name": "f", "arguments": {}}</c>', "", ["f"]),
        ('ok\n<c>\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}\n</c>', "ok", ["f", "g"]),
        (
            '<c>{"name": "f", "parameters": {"a": 1}}</c>\n<c>{"name": "g", "arguments": "{}"}</c> so',
            "\nso",
            ["f", "g"],
        ),
        ('<think>perhaps <c>{"name": "f", "arguments": {}}</c></think>no', None, []),
        ('<think>a</think><c>{"name": "f", "arguments": {}}</c>', "<think>a</think>", ["f"]),
        ('<c>{"name": "f", "arguments": {}', None, []),
        ('<c>{"name": "f", "arguments": {}}</c>\n<c>{"na', '\n<c>{"na', ["f"]),
        ('<c>{"nom": "f"}</c>', None, []),
    ],
)
def test_calls_are_found_in_the_text_of_an_answer(text: str, content: str | None, names: list[str]) -> None:
    found, calls = CallSyntax("<c>", "</c>").split(text)
    assert (found, [call["function"]["name"] for call in calls]) == (text if content is None else content, names)
