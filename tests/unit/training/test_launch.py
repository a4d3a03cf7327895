"""A function in a process of its own: what it tells, returns and raises arrives; how it ends is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import DataError, EnvironmentFault, LlmctlError, Stopped
from llmctl.training import launch
from llmctl.types import Event, null_sink

WORKERS = """
import os, signal, time
from llmctl.errors import DataError
from llmctl.types import Event

def add(one, other, tell):
    tell(Event("progress", {"done": one}))
    return {"sum": one + other, "pid": os.getpid()}

def refuse(tell):
    raise DataError("no label", where="rows.jsonl:7", hint="give it one")

def exhaust(tell):
    raise MemoryError

def stumble(tell):
    return {}["nothing"]

def die(tell):
    os.kill(os.getpid(), signal.SIGKILL)

def leave(tell):
    os._exit(3)

def measure(tell):
    from llmctl.training import machine
    before = machine.peak_memory_bytes()
    held = b"x" * 50_000_000
    return {"before": before, "after": machine.peak_memory_bytes(), "held": len(held)}

def wait(tell):
    tell(Event("note", {"text": str(os.getpid())}))
    time.sleep(60)

def save(tell):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    tell(Event("note", {"text": "ready"}))
    while not asked:
        time.sleep(0.01)
    tell(Event("note", {"text": "saved"}))
    return {"saved": True}
"""

Worker = Callable[..., Any]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Worker]:
    """A function of a module that the other process can import too."""
    import importlib

    (tmp_path / "workers_of_test_launch.py").write_text(WORKERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.reload(importlib.import_module("workers_of_test_launch"))
    return lambda name: getattr(module, name)  # type: ignore[no-any-return]


def ask_to_stop(event: Event) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_it_tells_and_returns_arrives(worker: Callable[[str], Worker]) -> None:
    events: list[Event] = []
    found = launch.run_in_subprocess(worker("add"), (2, 3), events.append)
    assert found["sum"] == 5
    assert found["pid"] != os.getpid()
    assert events == [Event("progress", {"done": 2})]


def test_its_peak_memory_is_its_own(worker: Callable[[str], Worker]) -> None:
    held = b"x" * 300_000_000
    found = launch.run_in_subprocess(worker("measure"), (), null_sink)
    assert found["before"] < len(held)
    assert found["after"] >= found["before"] + 0.9 * found["held"]


def test_its_error_is_raised_as_it_was(worker: Callable[[str], Worker]) -> None:
    with pytest.raises(DataError, match="no label") as raised:
        launch.run_in_subprocess(worker("refuse"), (), null_sink)
    assert (raised.value.where, raised.value.hint) == ("rows.jsonl:7", "give it one")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("exhaust", EnvironmentFault, "not enough memory"),
        ("stumble", LlmctlError, "KeyError: 'nothing'"),
        ("die", EnvironmentFault, "was killed by SIGKILL"),
        ("leave", EnvironmentFault, "ended with 3 and said nothing"),
    ],
)
def test_an_end_without_a_result_is_told(
    name: str, kind: type[LlmctlError], words: str, worker: Callable[[str], Worker]
) -> None:
    with pytest.raises(kind, match=words) as raised:
        launch.run_in_subprocess(worker(name), (), null_sink)
    assert type(raised.value) is kind


def test_asked_to_stop_it_is_asked_in_turn(worker: Callable[[str], Worker]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        launch.run_in_subprocess(worker("wait"), (), ask_to_stop)
    assert signal.getsignal(signal.SIGTERM) is before


def test_asked_at_its_end_it_ends_as_it_would_and_nothing_begins_after_it(worker: Callable[[str], Worker]) -> None:
    events: list[str] = []

    def ask_once(event: Event) -> None:
        events.append(event.fields["text"])
        if len(events) == 1:
            ask_to_stop(event)

    with pytest.raises(Stopped):
        launch.run_in_subprocess(worker("save"), (), ask_once)
    assert events == ["ready", "saved"]


def test_it_does_not_outlive_one_who_cannot_go_on_waiting(worker: Callable[[str], Worker]) -> None:
    pids: list[int] = []

    def fail(event: Event) -> None:
        pids.append(int(event.fields["text"]))
        raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        launch.run_in_subprocess(worker("wait"), (), fail)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
