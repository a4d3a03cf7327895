"""What a server refuses: OpenAI's error object, its codes, and the field at fault. Nothing is ignored or reflected."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from llmctl.errors import UsageError
from llmctl.workflows.serve.checks import preflight
from llmctl.workflows.serve.spec import ServeConfig
from tests.serve.conftest import Running, Serving, running, until

Served = Callable[[str], Running]
CHAT, COMPLETE, TASK = "/v1/chat/completions", "/v1/completions", "/v1/tasks/chat"
HELLO = [{"role": "user", "content": "hi"}]
FOREVER = {"prompt": "床前", "max_tokens": 10**6, "temperature": 0}
"""A greedy answer of `lstm` without an end."""


def refused(server: Running, path: str, body: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    status, document, _ = server.ask(path, body, **more)
    assert set(document) == {"error"}, document
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status, error


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 10_000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": True, "chunk": 1}}, "stream_options.chunk"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[1].tool_calls"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "yes"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"prompt": "x"}, "prompt"),
        ({"tempurature": 1}, "tempurature"),
    ],
    ids=json.dumps,
)
def test_a_field_that_is_wrong_or_not_supported_is_named(served: Served, given: dict[str, Any], param: str) -> None:
    status, error = refused(served("chat"), CHAT, {"messages": HELLO} | given)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.split("[")[0].split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [9_999_999]}, "prompt"),
        ({"prompt": [2**80]}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
    ],
    ids=json.dumps,
)
def test_a_prompt_that_is_none_is_refused(served: Served, given: dict[str, Any], param: str) -> None:
    status, error = refused(served("lm"), COMPLETE, {"prompt": "a"} | given)
    assert (status, error["param"]) == (400, param)


def test_values_that_ask_for_nothing_are_accepted(served: Served) -> None:
    """As clients send them along."""
    nothing = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "user": "someone",
        "n": 1,
        "stop": None,
        "seed": None,
        "logprobs": False,
        "stream_options": None,
    }
    assert served("chat").ask(CHAT, {"messages": HELLO, "max_tokens": 2, **nothing})[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a":' * 50_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_bad_json_is_refused(served: Served, body: bytes) -> None:
    assert refused(served("lm"), COMPLETE, body)[0] == 400
    assert served("lm").ask("/health")[0] == 200


def test_paths_and_methods(served: Served) -> None:
    server = served("lm")
    for path in ("/nope", "/v1", "/v1/", "/v1/models/", "//", "/v1/completions/", "/../etc/passwd", "/docs", "/%00"):
        assert refused(server, path, None)[0] == 404, path
    assert refused(server, COMPLETE, None)[0] == 405
    assert refused(server, "/v1/models", {"a": 1})[0] == 405


def test_nothing_that_was_sent_comes_back_as_html(served: Served) -> None:
    script = "<script>alert(1)</script>"
    for path, body in (
        (f"/{script}", None),
        (f"/v1/models/{script}", None),
        (f"/v1/tasks/{script}", {"records": ["a"]}),
        (COMPLETE, {"prompt": "a", script: 1}),
        (COMPLETE, {"prompt": "a", "model": script}),
    ):
        _, _, headers = served("lm").ask(path.replace(" ", "%20"), body)
        assert headers["content-type"] == "application/json"
        assert headers["x-content-type-options"] == "nosniff"


def test_no_answer_holds_a_path_of_the_machine(served: Served, folders: Callable[[str], Path]) -> None:
    server = served("chat")
    seen = []
    for path, body in (
        ("/v1/models", None),
        ("/", None),
        ("/health", None),
        ("/ready", None),
        ("/metrics", None),
        (CHAT, {"messages": HELLO, "max_tokens": 2}),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 9000}]}),
        (TASK, {"records": [{"messages": 5}]}),
        ("/v1/tasks/qa", {"records": [{}]}),
    ):
        seen.append(str(server.ask(path, body)[1]))
    assert str(folders("chat").parent) not in "".join(seen)
    assert str(Path.home()) not in "".join(seen)


# -- keys and origins -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text("# two clients\nfirst-key-0123456789\n\n  second-key-0123456789\n")
    with serving("lm", api_key_file=str(path)) as server:
        yield server


def test_each_key_opens_every_path_and_no_other_does(keyed: Running) -> None:
    for key in ("first-key-0123456789", "second-key-0123456789"):
        assert keyed.client(key).completions.create(model="lm", prompt="a", max_tokens=1).choices
    for header in ("", "Bearer", "Bearer ", "Bearer wrong", "Basic first-key-0123456789", "first-key-0123456789",
                   "Bearer # two clients", "Bearer first-key-012345678", "Bearer ÿ"):  # fmt: skip
        headers = {"Authorization": header.encode("latin-1").decode("latin-1")} if header else {}
        for path in ("/v1/models", "/metrics", COMPLETE, "/nope"):
            status, error = refused(keyed, path, {"prompt": "a"} if path == COMPLETE else None, headers=headers)
            assert (status, error["code"]) == (401, "invalid_api_key"), (header, path)
    for path in ("/", "/health", "/ready"):
        assert keyed.ask(path)[0] == 200
    with pytest.raises(openai.AuthenticationError):
        keyed.client("wrong").models.list()


def test_a_key_is_not_shown(keyed: Running) -> None:
    with pytest.raises(openai.AuthenticationError) as error:
        keyed.client("secret-of-another-server").models.list()
    assert "secret-of-another-server" not in str(error.value)
    assert "first-key" not in str(keyed.events)


def test_other_machines_need_a_key(folders: Callable[[str], Path], tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UsageError, match="need a key"):
            preflight(ServeConfig(model=str(folders("lm")), host=host, port=0), offline=True)
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(UsageError, match="no key"):
        preflight(ServeConfig(model=str(folders("lm")), api_key_file=tmp_path / "empty", port=0), offline=True)
    with pytest.raises(UsageError, match="cannot read"):
        preflight(ServeConfig(model=str(folders("lm")), api_key_file=tmp_path / "none", port=0), offline=True)


def test_pages_of_other_sites_cannot_use_a_server_without_keys(served: Served) -> None:
    server = served("lm")
    host = f"127.0.0.1:{server.host[1]}"
    body = {"prompt": "a", "max_tokens": 1}
    assert server.ask(COMPLETE, body, headers={"Origin": f"http://{host}", "Host": host})[0] == 200
    assert server.ask(COMPLETE, body, headers={"Host": f"localhost:{server.host[1]}"})[0] == 200
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": f"localhost.evil.example:{server.host[1]}"},
        {"Host": "["},
    ):
        assert refused(server, COMPLETE, body, headers=headers)[0] == 403, headers
    assert "access-control-allow-origin" not in server.ask("/v1/models", headers={"Origin": f"http://{host}"})[2]


# -- limits -----------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_even_while_it_is_sent(serving: Serving) -> None:
    with serving("lm", max_body=10_000) as server:
        status, error = refused(server, COMPLETE, b"x" * 20_000_000)
        assert (status, error["code"]) == (413, "body_too_large")

        def chunks() -> Any:
            for _ in range(100):
                yield b'{"prompt": "' + b"x" * 1000

        import http.client

        connection = http.client.HTTPConnection(*server.host, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                "POST", COMPLETE, chunks(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
            )
            assert connection.getresponse().status == 413
        assert server.ask(COMPLETE, {"prompt": "a", "max_tokens": 1})[0] == 200


def test_a_full_queue_is_429_with_the_time_to_wait(serving: Serving) -> None:
    with serving("lstm", max_batch=1, max_queue=1, max_new_tokens=10**6) as server:
        sockets = [begun(server, FOREVER | {"stream": True}) for _ in range(2)]
        until(lambda: server.load == 2)
        status, document, headers = server.ask(COMPLETE, {"prompt": "a"})
        assert (status, document["error"]["code"]) == (429, "queue_full")
        assert int(headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            server.client().completions.create(model="lstm", prompt="a")
        assert server.metric("llmctl_answers_waiting") == 1
        assert server.metric("llmctl_answers_running") == 1
        for each in sockets:
            each.close()
        until(lambda: server.load == 0)
        assert server.ask(COMPLETE, {"prompt": "a", "max_tokens": 1})[0] == 200


def test_a_request_that_takes_too_long_is_ended(serving: Serving) -> None:
    with serving("lstm", request_timeout=0.3, max_new_tokens=10**6) as server:
        assert refused(server, COMPLETE, FOREVER | {"n": 8})[0] == 504
        *_, last = server.stream(COMPLETE, FOREVER | {"n": 8, "stream": True})
        assert json.loads(last)["error"]["code"] == "timeout"
        until(lambda: server.load == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(serving: Serving, stream: bool) -> None:
    with serving("lstm", max_batch=2, max_new_tokens=10**6) as server:
        clients = [begun(server, FOREVER | {"stream": stream}) for _ in range(4)]
        until(lambda: server.load == 4)
        for each in clients:
            each.close()
        until(lambda: server.load == 0)
        assert server.ask(COMPLETE, {"prompt": "a", "max_tokens": 1})[0] == 200
        until(lambda: server.metric('llmctl_requests_total{endpoint="/v1/completions",status="499"}') == 4)


def test_what_the_model_raises_is_a_500_without_details_and_the_server_goes_on(serving: Serving) -> None:
    with serving("lm") as server:
        session = server.server.scheduler._session
        original = session._advance
        session._advance = lambda *args: (_ for _ in ()).throw(RuntimeError("/secret/path is broken"))
        status, error = refused(server, COMPLETE, {"prompt": "a"})
        assert (status, error["type"]) == (500, "server_error")
        assert "secret" not in error["message"]
        assert any("/secret/path" in str(each.fields) for each in server.events), "the log has the reason"
        del original
        assert server.ask(COMPLETE, {"prompt": "a", "max_tokens": 1})[0] == 200
        assert server.metric("llmctl_engine_failures_total") == 1


def begun(server: Running, body: Any) -> socket.socket:
    """A client that has sent a request and reads nothing."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(server.host)
    head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_many_clients_at_once_get_their_own_answers(served: Served, generated: Callable[..., list[str]]) -> None:
    prompts = [f"{word} {number}" for number in range(8) for word in ("Shall", "compare", "床前", "art")]
    expected = {prompt: generated("lstm", prompt, max_new_tokens=8)[0] for prompt in prompts}
    client = served("lstm").client()

    def ask(prompt: str) -> str:
        return client.completions.create(model="lstm", prompt=prompt, max_tokens=8, temperature=0).choices[0].text

    with ThreadPoolExecutor(32) as pool:
        assert dict(zip(prompts, pool.map(ask, prompts), strict=True)) == expected


TURNS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|eos|>{% endfor %}<|assistant|>"


@pytest.mark.parametrize(
    ("guard", "problem"),
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}", "please"),
        ("{% if messages[0].role == 'system' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
         "{% endfor %}{% endif %}", "takes more than"),
        ("{% if messages[0].role == 'system' %}{{ 'x' * 999999999 }}{% endif %}", "memory|characters"),
    ],
    ids=["raises", "loops", "grows"],
)  # fmt: skip
def test_a_template_that_refuses_or_never_ends_costs_its_request_alone(
    folders: Callable[[str], Path], tmp_path: Path, guard: str, problem: str
) -> None:
    shutil.copytree(folders("chat"), tmp_path / "model")
    card = json.loads((tmp_path / "model" / "llmctl.json").read_text())
    (tmp_path / "model" / "llmctl.json").write_text(json.dumps(card | {"style": "template"}))
    (tmp_path / "model" / "chat_template.jinja").write_text(guard + TURNS)
    with running(tmp_path / "model") as server:
        messages = [{"role": "system", "content": "x"}, *HELLO]
        with ThreadPoolExecutor(3) as pool:
            hostile = [pool.submit(refused, server, CHAT, {"messages": messages}) for _ in range(2)]
            fine = pool.submit(server.ask, CHAT, {"messages": HELLO, "max_tokens": 2})
            assert fine.result()[0] == 200
        for each in hostile:
            status, error = each.result()
            assert (status, error["param"]) == (400, "messages")
            assert re.search(problem, error["message"])
            assert str(tmp_path) not in error["message"]


def test_conversations_of_ever_new_shapes_do_not_fill_the_memory(served: Served) -> None:
    server = served("chat")
    for number in range(3, 9):
        messages = [{"role": ("user", "assistant", "system")[place % number % 3], "content": ""} for place in range(30)]
        assert server.ask(CHAT, {"messages": [*messages, *HELLO], "max_tokens": 1})[0] == 200
    many = [*HELLO] * 5000
    assert refused(server, CHAT, {"messages": many})[1]["param"] == "messages"
    assert refused(server, CHAT, {"messages": many[:2000]})[1]["code"] == "context_length_exceeded"
