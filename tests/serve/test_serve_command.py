"""`llmctl serve` as a process: the address it prints, signals, exit codes, and clients that do harm."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

COMPLETE = "/v1/completions"


class Process:
    """A running command. `port`: where it listens."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmctl", "serve", "--model", str(folder), "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline()]
        if "--json" in words:
            while self.lines[-1] not in ("}\n", ""):
                self.lines.append(self.process.stdout.readline())
        found = re.search(r"http://127\.0\.0\.1:(\d+)", "".join(self.lines))
        assert found, self.process.communicate(timeout=60)
        self.port = int(found[1])

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in (answer.getheader("content-type") or "") else text

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def end(self, *signals: int) -> tuple[int, str, str]:
        """Exit code, further output, standard error."""
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def start(folders: Callable[[str], Path]) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(name: str, *words: str) -> Process:
        started.append(Process(folders(name), *words))
        return started[-1]

    yield begin
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_sigterm_answers_every_accepted_request_refuses_new_ones_and_exits_0(start: Callable[..., Process]) -> None:
    server = start("lm", "--max-batch", "2", "--verbose")
    assert server.lines == [f"http://127.0.0.1:{server.port}\n"]
    count = 8
    body = {"prompt": "Shall I", "max_tokens": 100, "temperature": 0}
    expected = server.ask(COMPLETE, body)[1]["choices"]
    assert server.ask("/ready") == (200, {"status": "ok"})
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(server.ask, COMPLETE, body | {"n": 3}) for _ in range(count)]
        while server.metric("llmctl_requests_active") <= count:  # the question itself is one more
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        refused: tuple[int, Any] | None = None
        with contextlib.suppress(OSError, http.client.HTTPException):  # the last answer was there first
            while refused is None or refused[0] == 200:
                refused = server.ask(COMPLETE, body)
        answers = [each.result() for each in asked]
    assert [status for status, _ in answers] == [200] * count
    for _, answer in answers:
        assert [each["text"] for each in answer["choices"]] == [expected[0]["text"]] * 3
    assert refused is None or (refused[0], refused[1]["error"]["code"]) == (503, "draining")
    code, out, err = server.end()
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
    assert "Shall I" not in err, "prompts are not logged"


def test_a_port_in_use_is_exit_7_and_other_faults_are_reported_before_the_model_is_loaded(
    folders: Callable[[str], Path], inside: Callable[..., dict[str, Any]]
) -> None:
    model = folders("lm")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = inside("serve", "--model", model, "--port", port, code=7)["error"]
        assert str(port) in error["message"]
        assert "--port 0" in error["hint"]
    for words, problem in (
        (["--host", "0.0.0.0"], "need a key"),
        (["--host", "no.such.host.invalid"], "no address"),
        (["--host", "192.0.2.1", "--api-key-file", model / "config.json"], "ASCII without blanks"),
        (["--port", "70000"], "at most 65535"),
        (["--max-batch", "0"], "at least 1"),
        (["--task", "classification"], "labels"),
    ):
        found = inside("serve", "--model", model, "--port", "0", *words, code=2)
        assert problem in found["error"]["message"]


def test_a_missing_package_is_exit_4_with_the_command_that_installs_it(
    folders: Callable[[str], Path], inside: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    error = inside("serve", "--model", folders("lm"), "--port", "0", code=4)["error"]
    assert "uvicorn" in error["message"]
    assert error["hint"] == "pip install 'llmctl[serve]'"


def test_a_dry_run_says_what_would_be_served(folders: Callable[[str], Path], inside: Any) -> None:
    plan = inside("serve", "--model", folders("qa"), "--port", "0", "--dry-run")["plan"]
    assert (plan["name"], plan["task"], plan["keys"]) == ("qa", "question-answering", 0)


def test_harmful_clients_leave_the_server_as_it_was(start: Callable[..., Process], tmp_path: Path) -> None:
    """Slow heads and bodies, idle connections, garbage, large heads, clients that leave or read nothing: all at once.

    Then Ctrl-C ends it; `--json` has printed one document.
    """
    server = start("lm", "--max-batch", "4", "--max-queue", "8", "--set", "client_timeout=2s",
                   "--set", "max_connections=150", "--set", "max_body=100000",
                   "--json", "--events", str(tmp_path / "events.jsonl"))  # fmt: skip
    document = json.loads("".join(server.lines))
    assert (document["schema"], document["status"], document["model"]) == ("llmctl.serve/1", "ok", "lm")
    assert document["url"] == f"http://127.0.0.1:{server.port}"
    body = {"prompt": "Shall I", "max_tokens": 20, "temperature": 0}
    expected = server.ask(COMPLETE, body)[1]["choices"][0]["text"]
    process = psutil.Process(server.process.pid)

    def connect() -> socket.socket:
        found = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        opened.append(found)
        return found

    def gone(connection: socket.socket) -> bool:
        """Whether the server has closed it."""
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass
        return True

    def attack() -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            b"GET / HTTP/9.9\r\n\r\n",
            b"\r\n\r\n\r\n\r\n",
            b"G" * 200_000,
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
            head + b"Content-Length: -5\r\n\r\n",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
            head + b"Content-Length: 99999999999999999999999\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n",
            head + b"Transfer-Encoding: gzip\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            head + b"Content-Length: 100\r\n\r\n{",  # a body that never comes
            b"POST /v1/comp",  # a head that never comes
        ):
            with contextlib.suppress(OSError):
                connection = connect()
                connection.sendall(data)
        slow.append(connection)  # the last of them
        for stream in (True, False):
            for leave_at_once in (True, False):
                data = json.dumps(body | {"max_tokens": 120, "stream": stream, "n": 2}).encode()
                connection = connect()
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
                if leave_at_once:
                    connection.close()
                    opened.remove(connection)
        for _ in range(200):
            with contextlib.suppress(OSError):
                slow.append(connect())

    memory: list[int] = []
    for _ in range(3):
        opened: list[socket.socket] = []
        slow: list[socket.socket] = []
        attack()
        assert server.ask(COMPLETE, body)[1]["choices"][0]["text"] == expected, "idle clients make room"
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(gone, slow)), "slow and idle clients are closed"
        for each in opened:
            each.close()
        while server.metric("llmctl_answers_running") or server.metric("llmctl_requests_active") > 1:
            time.sleep(0.05)
        assert server.ask(COMPLETE, body)[1]["choices"][0]["text"] == expected
        memory.append(process.memory_info().rss)
    assert process.num_fds() < 60
    assert memory[2] < memory[0] * 1.05
    code, out, err = server.end(signal.SIGINT)
    assert (code, out, err) == (130, "", "error: interrupted\n"), "attacks do not fill the log"
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    asked = [each["status"] for each in events if each["event"] == "request" and each["endpoint"] == COMPLETE]
    assert asked.count(200) >= 7
    assert "Shall I" not in str(events), "prompts are not recorded"


def test_a_client_that_reads_nothing_does_not_hold_its_place(serving: Any) -> None:
    with serving("lstm", max_new_tokens=10**6, client_timeout=1.0) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.host)
        data = json.dumps(
            {"prompt": "a", "max_tokens": 10**6, "temperature": 0, "stream": True, "n": 16, "logprobs": 20}
        ).encode()
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        end = time.monotonic() + 60
        while server.load == 0:
            time.sleep(0.01)
        while server.load:
            assert time.monotonic() < end
            time.sleep(0.05)
        connection.close()
