"""`serve` and `chat` of exported folders answer as those of the model they were made from."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.store.models import Card, write_card
from tests.serve.conftest import Running, folders, running

__all__ = ["folders"]

Folders = Callable[[str], Path]
Inside = Callable[..., dict[str, Any]]
Source = Callable[[str], Path]
Pair = tuple[Running, Running]

DECODERS = list(itertools.product(["ctranslate2", "onnx"], ["chat", "lm"]))


@pytest.fixture(scope="module")
def model(folders: Folders, source: Source) -> Folders:
    """The folder of a model."""

    def found(name: str) -> Path:
        if name != "bert":
            return folders(name)
        card = Card(task="classification", family="encoder", style="single", labels=("negative", "positive"))
        write_card(source(name), card)
        return source(name)

    return found


@pytest.fixture(scope="module")
def exported(inside: Inside, model: Folders, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of its export."""
    root = tmp_path_factory.mktemp("exported")

    def found(to: str, name: str) -> Path:
        out = root / f"{name}-{to}"
        if not out.exists():
            inside("export", model(name), "--to", to, "--out", out, "--verify", "0")
        return out

    return found


@pytest.fixture(scope="module")
def pairs(model: Folders, exported: Callable[[str, str], Path]) -> Iterator[Callable[[str, str], Pair]]:
    """Servers of a model and of its export."""
    with contextlib.ExitStack() as stack:
        servers: dict[Path, Running] = {}

        def server(folder: Path) -> Running:
            if folder not in servers:
                servers[folder] = stack.enter_context(running(folder, name="m"))
            return servers[folder]

        yield lambda to, name: (server(model(name)), server(exported(to, name)))


def both(pair: Pair, ask: Callable[[Any], Any]) -> None:
    ours, theirs = (ask(each) for each in pair)
    assert theirs == ours


@pytest.mark.parametrize(("to", "name"), [each for each in DECODERS if each[1] == "chat"])
def test_the_openai_client_chats(pairs: Callable[[str, str], Pair], to: str, name: str) -> None:
    said = [{"role": "user", "content": "Shall I compare thee"}]
    settings: dict[str, Any] = {"model": "m", "messages": said, "max_tokens": 12}
    pair = pairs(to, name)

    def chat(server: Running, **more: Any) -> Any:
        found = server.client().chat.completions.create(**settings | {"temperature": 0} | more)
        assert found.usage is not None
        return [(each.message.content, each.finish_reason) for each in found.choices], found.usage.completion_tokens

    def stream(server: Running) -> list[str]:
        chunks = server.client().chat.completions.create(**settings, temperature=0, stream=True)
        return [each.choices[0].delta.content or "" for each in chunks]

    both(pair, chat)
    both(pair, lambda server: chat(server, temperature=1.2, n=2, seed=7))
    texts = [chat(server)[0][0][0] for server in pair]
    stop = texts[0][3:5]
    both(pair, lambda server: chat(server, stop=[stop]))
    assert chat(pair[1], stop=[stop])[0][0] == (texts[0][: texts[0].index(stop)], "stop")
    pieces = stream(pair[1])
    assert "".join(pieces) == texts[0]
    assert len(pieces) > 5, "the answer came in one piece"


@pytest.mark.parametrize(("to", "name"), DECODERS)
def test_log_probabilities_of_answers_and_prompts(pairs: Callable[[str, str], Pair], to: str, name: str) -> None:
    body = {"prompt": "Shall I", "max_tokens": 5, "temperature": 0, "logprobs": 3, "echo": True}
    ours, theirs = (each.ask("/v1/completions", body) for each in pairs(to, name))
    assert (ours[0], theirs[0]) == (200, 200), theirs[1]
    mine, other = (each[1]["choices"][0] for each in (ours, theirs))
    assert other["text"] == mine["text"]
    assert other["logprobs"]["tokens"] == mine["logprobs"]["tokens"]
    for one, two in zip(mine["logprobs"]["token_logprobs"], other["logprobs"]["token_logprobs"], strict=True):
        assert two == (one if one is None else pytest.approx(one, abs=1e-3))
    for one, two in zip(mine["logprobs"]["top_logprobs"], other["logprobs"]["top_logprobs"], strict=True):
        assert two == (one if one is None else pytest.approx(one, abs=1e-3))


@pytest.mark.parametrize(
    ("to", "name", "task"),
    [
        ("ctranslate2", "chat", "chat"),
        ("ctranslate2", "lm", "language-modeling"),
        ("ctranslate2", "translation", "translation"),
        ("ctranslate2", "qa", "question-answering"),
        ("ctranslate2", "decoder-classifier", "classification"),
        ("ctranslate2", "bert", "classification"),
        ("onnx", "lm", "language-modeling"),
        ("onnx", "bert", "classification"),
    ],
)
def test_records_of_every_task_are_answered(pairs: Callable[[str, str], Pair], to: str, name: str, task: str) -> None:
    body = {"records": ["Shall I", "It was the worst", "床前明月光"], "max_tokens": 10}
    pair = pairs(to, name)
    both(pair, lambda server: server.ask(f"/v1/tasks/{task}", body)[:2])
    labelled = {"text": "Shall I", "label": "good"}
    record = {"lm": {"text": "Shall I"}, "translation": {"source": "Shall", "target": "day"}}.get(name, labelled)
    found = [each.ask(f"/v1/tasks/{task}/likelihoods", {"records": [record]}) for each in pair]
    if name == "decoder-classifier":  # a label is chosen: `eval` has no likelihood of it either
        assert [each[0] for each in found] == [422, 422]
    if name in ("lm", "translation"):
        assert [each[0] for each in found] == [200, 200]
        ours, theirs = (each[1]["likelihoods"][0] for each in found)
        assert theirs["logprob"] == pytest.approx(ours["logprob"], abs=1e-3)


@pytest.mark.parametrize("to", ["ctranslate2", "onnx"])
def test_a_conversation_at_the_command_line(
    exported: Callable[[str, str], Path], llmctl: Callable[..., Any], folders: Folders, to: str
) -> None:
    done = [
        llmctl("chat", "--model", model, "--max-new-tokens", "8", input="Shall I\nand more\n", stdin=None)
        for model in (folders("chat"), exported(to, "chat"))
    ]
    assert [each.returncode for each in done] == [0, 0], done[1].stderr
    assert done[1].stdout == done[0].stdout
    assert done[0].stdout.strip()


def test_a_model_behind_a_server_is_not_served_again(inside: Inside) -> None:
    error = inside("serve", "--model", "openai:m@http://localhost:1/v1", "--dry-run", code=2)["error"]
    assert "is served already" in error["message"]
    assert "server already" not in error["message"]  # one fault, one error
