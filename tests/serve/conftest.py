"""Servers in this process, each with a tiny model of random weights, as clients reach them: over a socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import torch

from llmctl import registry
from llmctl.data.tokenizing import tokenizers
from llmctl.engines.spec import Sampling
from llmctl.models import pretrained
from llmctl.models.spec import Shape, Vocabulary
from llmctl.store.models import Card, write_card
from llmctl.types import Event, Record
from llmctl.workflows.inference.session import Predictor, open_predictor
from llmctl.workflows.serve.checks import preflight
from llmctl.workflows.serve.run import Server, open_server
from llmctl.workflows.serve.spec import ServeConfig

CONTEXT = 128
TEXT = "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. 床前明月光，疑是地上霜。"
LABELS = ("bad", "good")
SHAPE = {"layers": 1, "hidden": 32, "embedding": 16, "heads": 2, "context": CONTEXT, "inner": 48}
MODELS = {
    "lm": ("gpt2", "language-modeling", "document"),
    "chat": ("llama", "chat", "control"),
    "endless": ("llama", "chat", "control"),
    "lstm": ("lstm", "language-modeling", "document"),
    "translation": ("marian", "translation", "pair"),
    "summarization": ("lstm-seq2seq", "summarization", "pair"),
    "qa": ("t5", "question-answering", "pair"),
    "classifier": ("lstm-classifier", "classification", "single"),
    "decoder-classifier": ("gpt2", "classification", "control"),
}
"""Architecture, task and prompt format, by the name of the folder."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model folder as training leaves it. Weights are spread wide, so that answers differ from prompt to prompt, and
    the answers of `endless` do not end."""
    root = tmp_path_factory.mktemp("served")

    def made(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        architecture, task, style = MODELS[name]
        spec = registry.load("models", architecture)
        shape = SHAPE | ({"context": 100_000} if name == "endless" else {})
        given = {each: value for each, value in shape.items() if each in spec.settings()}
        labels = LABELS if task == "classification" else ()
        torch.manual_seed(1)
        tokenizer = tokenizers.train("bpe", lambda: [TEXT] * 4, 4 * len(TEXT), 330)
        vocabulary = Vocabulary(tokenizer.get_vocab_size(), 0, 1, 2)
        model = spec.build(spec.shape("nano", Shape(**given)), vocabulary, labels if spec.family == "encoder" else ())
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() > 1:
                    weights.normal_(0.0, 0.4)
            if name == "endless":
                model.get_output_embeddings().weight[: len(tokenizers.CONTROL)] = 0.0
        pretrained.save(model, folder)
        tokenizers.save(tokenizer, folder)
        write_card(folder, Card(task=task, family=spec.family, style=style, labels=labels))
        return folder

    return made


@dataclass
class Running:
    """A server, and ways to ask it."""

    server: Server
    events: list[Event]
    clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def host(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def load(self) -> int:
        """Answers that are being generated or waiting."""
        return self.server.scheduler.load

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, document (or text) and headers of the answer to one request."""
        connection = http.client.HTTPConnection(*self.host, timeout=60)
        with contextlib.closing(connection):
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            found = {name.lower(): value for name, value in answer.getheaders()}
            is_json = found.get("content-type") == "application/json"
            return answer.status, json.loads(text) if is_json else text, found

    def stream(self, path: str, body: Any) -> list[str]:
        """The data of all events of a stream."""
        status, text, headers = self.ask(path, body)
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream"), text
        assert text.endswith("\n\n")
        return [part.removeprefix("data: ") for part in text.removesuffix("\n\n").split("\n\n")]

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        """A client whose connections are closed with the server."""
        found = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **more)
        self.clients.append(found)
        return found

    def metric(self, line: str) -> float:
        """The value of a line of `/metrics`."""
        _, text, _ = self.ask("/metrics")
        (found,) = (each for each in text.splitlines() if each.startswith(f"{line} "))
        return float(found.rsplit(" ", 1)[1])


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Running]:
    events: list[Event] = []
    config = ServeConfig.model_validate({"model": str(folder), "port": 0, **settings})
    server = open_server(preflight(config, offline=True), events.append)
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    found = Running(server, events)
    try:
        yield found
    finally:
        for client in found.clients:
            client.close()
        server.end()
        thread.join(30)
        assert not thread.is_alive()


Serving = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def serving(folders: Callable[[str], Path]) -> Serving:
    """A server of its own for a test: `serving("lm", max_batch=2)`."""
    return lambda name, **settings: running(folders(name), **settings)


@pytest.fixture(scope="session")
def served(folders: Callable[[str], Path]) -> Iterator[Callable[[str], Running]]:
    """The server of a model with default settings, which tests share."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Running] = {}

        def server(name: str) -> Running:
            if name not in found:
                found[name] = stack.enter_context(running(folders(name)))
            return found[name]

        yield server


@pytest.fixture(scope="session")
def generated(folders: Callable[[str], Path]) -> Callable[..., list[str]]:
    """What `generate` answers to one prompt."""
    opened: dict[tuple[str, str | None], Predictor] = {}

    def generate(name: str, prompt: str, task: str | None = None, **settings: Any) -> list[str]:
        key = (name, task)
        if key not in opened:
            opened[key] = open_predictor(str(folders(name)), task=task)
        predictor = opened[key]
        fields = predictor.task.record_of(prompt)
        found = predictor.answers([Record("", fields)], Sampling(**{"max_new_tokens": 12} | settings))
        return [each.text for each in found]

    return generate


def until(holds: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not _holds(holds):
        assert time.monotonic() < end
        time.sleep(0.02)


def _holds(holds: Callable[[], Any]) -> bool:
    try:
        return bool(holds())
    except ValueError:  # a metric that is not there yet
        return False
