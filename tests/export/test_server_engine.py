"""`--model openai:NAME@URL` against servers that speak the protocol over real sockets, well and badly."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Inside = Callable[..., dict[str, Any]]

WORDS = {"capital": 3, "France": 2, "Paris": 2}


class OpenAIServer(ThreadingHTTPServer):
    """Answers a message with its text in capital letters; a text is scored word by word, by a unigram that prefers a word
    after one of the same length or shorter."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures: list[int] = []
        """Statuses to answer with before the next good answer."""
        self.scores = True
        self.busy = self.most = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: OpenAIServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append(body)
            server.keys.append(self.headers.get("Authorization"))
            status = server.failures.pop() if server.failures else 200
            server.busy += 1
            server.most = max(server.most, server.busy)
        time.sleep(0.02)  # so that requests overlap
        try:
            if status != 200:
                self._send({"error": {"message": f"no\nluck {status}"}}, status)
            elif self.path.endswith("/chat/completions"):
                self._chat(body)
            else:
                self._complete(body)
        finally:
            with server.lock:
                server.busy -= 1

    def _chat(self, body: dict[str, Any]) -> None:
        text = body["messages"][-1]["content"].upper()
        if "REFUSE" in text:
            self._send({"error": {"message": "too long"}}, 400)
            return
        if body.get("stream"):
            pieces = [{"choices": [{"delta": {"content": each}}]} for each in text]
            end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            usage = {"choices": [], "usage": {"completion_tokens": 5}}
            lines = "".join(f"data: {json.dumps(each)}\n\n" for each in (*pieces, end, usage)) + "data: [DONE]\n\n"
            self._raw(lines.encode(), "text/event-stream")
            return
        message = {"role": "assistant", "content": text}
        self._send({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 5}})

    def _complete(self, body: dict[str, Any]) -> None:
        if not (body.get("echo") and self.server.scores):
            self._send({"choices": [{"text": " and on", "finish_reason": "length"}]})
            return
        tokens = body["prompt"].split(" ")
        tokens = [tokens[0], *(f" {each}" for each in tokens[1:])]
        offsets = [sum(map(len, tokens[:number])) for number in range(len(tokens))]
        values = [None, *(log_of(*pair) for pair in itertools.pairwise(tokens))]
        details = {
            "tokens": [*tokens, " x"],
            "token_logprobs": [*values, -9.0],
            "text_offset": [*offsets, len(body["prompt"])],
        }
        self._send({"choices": [{"text": body["prompt"] + " x", "logprobs": details, "finish_reason": "length"}]})

    def _send(self, document: dict[str, Any], status: int = 200) -> None:
        self._raw(json.dumps(document).encode(), "application/json", status)

    def _raw(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(data)


def log_of(before: str, word: str) -> float:
    """In order, "capital" comes after "The" and "the"."""
    return -1.0 if (before.strip(), word.strip()) in {("The", "capital"), ("the", "capital")} else -2.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made = OpenAIServer()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_every_row_has_its_answer_or_its_error(inside: Inside, server: OpenAIServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    prompts = [f"row {number}" for number in range(20)] + ["refuse this", "床前明月光"]
    rows.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    server.failures = [503, 429, 500]
    out = tmp_path / "out.jsonl"
    words = ("--model", f"openai:m@{server.url}", "--input", rows, "--output", out, "--concurrency", "4")
    inside("generate", *words, code=10)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == len(prompts)
    assert [each.get("text") for each in found] == [None if "refuse" in each else each.upper() for each in prompts]
    assert "too long" in found[20]["error"]
    assert 1 < server.most <= 4
    assert set(server.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in out.read_text()


def test_a_conversation_is_streamed(inside: Inside, server: OpenAIServer, llmctl: Callable[..., Any]) -> None:
    done = llmctl("chat", "--model", f"openai:m@{server.url}", input="hello\nand more\n", stdin=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n\n") == ["HELLO", "AND MORE\n"]
    assert [each["content"] for each in server.seen[-1]["messages"]] == ["hello", "HELLO", "and more"]


def test_a_task_is_put_in_words(inside: Inside, server: OpenAIServer, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"source": "hello", "target": "HELLO"}) + "\n")
    words = ("--model", f"openai:m@{server.url}", "--set", "task=translation", "--data", data, "--metric", "bleu")
    document = inside("eval", *words, "--set", "instruction=")
    assert server.seen[-1]["messages"] == [{"role": "user", "content": "hello"}]
    assert server.seen[-1]["temperature"] == 0
    assert document["scores"][0]["n"] == 1


def test_likelihoods_are_those_of_the_server(inside: Inside, server: OpenAIServer, tmp_path: Path) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": "See the capital now"}) + "\n")
    words = ("--model", f"openai:m@{server.url}", "--set", "task=lm", "--data", data, "--metric", "perplexity")
    (score,) = inside("eval", *words)["scores"]
    assert score["value"] == pytest.approx(math.exp(5 / 3))
    assert "|tok:server|window:all|eos:no|precision:server" in score["signature"]


def test_likelihoods_are_refused_where_the_server_has_none(
    inside: Inside, server: OpenAIServer, tmp_path: Path
) -> None:
    server.scores = False
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": "See the capital now"}) + "\n")
    words = ("--model", f"openai:m@{server.url}", "--set", "task=lm", "--data", data, "--metric", "perplexity")
    error = inside("eval", *words, code=4)["error"]
    assert "does not return log-probabilities of a prompt" in error["message"]


def test_what_a_foreign_server_cannot_score_is_refused(inside: Inside, server: OpenAIServer, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    words = ("--model", f"openai:m@{server.url}", "--data", data, "--metric")
    data.write_text(json.dumps({"source": "x", "target": "y"}) + "\n")
    error = inside("eval", *words, "perplexity", "--set", "task=translation", code=2)["error"]
    assert "scores plain text, not translation" in error["message"]
    data.write_text(json.dumps({"text": "See the capital now"}) + "\n")
    error = inside("eval", *words, "perplexity", "--set", "task=lm", "--set", "window=8", code=2)["error"]
    assert "takes no window" in error["message"]
    data.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    pairs = ("--set", "task=preference", "--set", f"reference={tmp_path}")
    error = inside("eval", *words, "reward_accuracy", *pairs, code=2)["error"]
    assert "does not score preference pairs" in error["message"]


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("openai:other@{url}", 2, "the server has no model 'other'; it has m"),
        ("openai:m", 2, "names no model and server"),
        ("openai:m@localhost:1/v1", 2, "names no model and server"),
    ],
)
def test_a_wrong_reference(inside: Inside, server: OpenAIServer, model: str, code: int, message: str) -> None:
    error = inside("generate", "--model", model.format(url=server.url), "--prompt", "x", code=code)["error"]
    assert message in error["message"]


def test_weights_behind_a_server_are_out_of_reach(inside: Inside, server: OpenAIServer, tmp_path: Path) -> None:
    words = ("--model", f"openai:m@{server.url}")
    error = inside("export", f"openai:m@{server.url}", "--to", "gguf", "--out", tmp_path / "out", code=2)["error"]
    assert "does not give its weights" in error["message"]
    error = inside("generate", *words, "--prompt", "x", "--set", "engine=torch", code=2)["error"]
    assert "the engine is openai" in error["message"]
