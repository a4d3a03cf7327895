"""Many clients at once against a `llmctl serve` process: every answer is the right one, slots and memory come back.

By hand: `python -m tests.serve.load FOLDER CLIENTS REQUESTS`, as 32 and 200; prints the figures as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

PATH: Final = "/v1/completions"
TOKENS: Final = 24
"""Of each answer, at most."""
PROMPTS: Final = tuple(
    f"{word} {number} 床前" for number in range(8) for word in ("Shall I", "a day", "more", "thee to")
)
ENDLESS: Final = 20_000
"""Tokens of an answer that nobody waits for."""


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request("GET" if body is None else "POST", path, data)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if body is not None else text

    def complete(self, prompt: str) -> tuple[int, str]:
        status, document = self.ask(PATH, {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0})
        return status, document["choices"][0]["text"] if status == 200 else str(document)

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def server(folder: Path, rows: int) -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of a running server."""
    command = [sys.executable, "-m", "llmctl", "serve", "--model", str(folder), "--port", "0", "--max-batch", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rsplit(":", 1)[1]), psutil.Process(process.pid)
        finally:
            process.kill()


def measure(folder: Path, *, clients: int, requests: int, idle: int, gone: int) -> dict[str, Any]:
    """Figures of `clients` at once with `requests` each, `idle` open sockets that send nothing, and `gone` clients that
    leave in the middle of a stream."""
    with server(folder, clients) as (port, process):
        with contextlib.closing(Client(port)) as one:
            expected = {prompt: one.complete(prompt)[1] for prompt in PROMPTS}
        assert len(set(expected.values())) > len(PROMPTS) // 2, "answers that are all alike would prove nothing"
        _load(port, clients, 2 * len(PROMPTS) // clients + 1, expected)  # what grows at first is allocated
        alone = _load(port, 1, max(len(PROMPTS), requests), expected)
        before = process.memory_info().rss
        together = _load(port, clients, requests, expected)
        grown = process.memory_info().rss - before

        with contextlib.ExitStack() as stack:
            for _ in range(idle):
                stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port))))
            beside = _load(port, 1, len(PROMPTS), expected)
        freed = [_leave(port) for _ in range(gone)]
        return {
            "clients": clients,
            "requests": clients * requests,
            "statuses": together["statuses"],
            "wrong_answers": together["wrong"] + alone["wrong"] + beside["wrong"],
            "throughput_of_one_client": round(alone["rate"], 2),
            "throughput": round(together["rate"], 2),
            "ratio": round(together["rate"] / alone["rate"], 2),
            "memory_bytes": before,
            "memory_grown_bytes": grown,
            "idle_sockets": idle,
            "statuses_beside_idle_sockets": beside["statuses"],
            "seconds_until_slots_are_free": [round(each, 3) for each in freed],
            "load_at_the_end": _metric(port, "llmctl_answers_running") + _metric(port, "llmctl_answers_waiting"),
            "failures": _metric(port, "llmctl_engine_failures_total"),
        }


def _load(port: int, clients: int, requests: int, expected: dict[str, str]) -> dict[str, Any]:
    """Statuses, wrong answers, and answers a second."""
    statuses: Counter[int] = Counter()
    wrong, lock = [0], threading.Lock()

    def work(number: int) -> None:
        with contextlib.closing(Client(port)) as client:
            for turn in range(requests):
                prompt = PROMPTS[(number * 7 + turn) % len(PROMPTS)]
                status, text = client.complete(prompt)
                with lock:
                    statuses[status] += 1
                    wrong[0] += text != expected[prompt]

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    rate = clients * requests / (time.monotonic() - began)
    return {"statuses": {str(each): count for each, count in statuses.items()}, "wrong": wrong[0], "rate": rate}


def _metric(port: int, name: str) -> float:
    with contextlib.closing(Client(port)) as client:
        found = re.search(rf"^{name} (\S+)$", client.ask("/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


def _leave(port: int) -> float:
    """Begin a long stream, read a little of it, and leave; the seconds until nothing is being answered."""
    body = json.dumps({"prompt": "Shall I", "max_tokens": ENDLESS, "temperature": 1.0, "stream": True, "n": 2})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request("POST", PATH, body)
        client.getresponse().read(200)
        assert _metric(port, "llmctl_answers_running") > 0
    left = time.monotonic()
    while _metric(port, "llmctl_answers_running") + _metric(port, "llmctl_answers_waiting"):
        assert time.monotonic() - left < 60
        time.sleep(0.02)
    return time.monotonic() - left


if __name__ == "__main__":
    print(
        json.dumps(measure(Path(sys.argv[1]), clients=int(sys.argv[2]), requests=int(sys.argv[3]), idle=1000, gone=10))
    )
