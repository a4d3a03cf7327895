"""Running a function in a subprocess: its events, result and errors arrive, and crashes are reported."""

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

def add(one, other, emit):
    emit(Event("progress", {"done": one}))
    return {"sum": one + other, "pid": os.getpid()}

def refuse(emit):
    raise DataError("no label", where="rows.jsonl:7", hint="give it one")

def exhaust(emit):
    raise MemoryError

def stumble(emit):
    return {}["nothing"]

def die(emit):
    os.kill(os.getpid(), signal.SIGKILL)

def leave(emit):
    os._exit(3)

def measure(emit):
    from llmctl.training import machine
    before = machine.peak_memory_bytes()
    held = b"x" * 50_000_000
    return {"before": before, "after": machine.peak_memory_bytes(), "held": len(held)}

def wait(emit):
    emit(Event("note", {"text": str(os.getpid())}))
    time.sleep(60)

def save(emit):
    requests = []
    signal.signal(signal.SIGTERM, lambda *_: requests.append(1))
    emit(Event("note", {"text": "ready"}))
    while not requests:
        time.sleep(0.01)
    emit(Event("note", {"text": "saved"}))
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


def request_stop(event: Event) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_events_and_result_of_the_worker_arrive(worker: Callable[[str], Worker]) -> None:
    events: list[Event] = []
    found = launch.run_in_subprocess(worker("add"), (2, 3), events.append)
    assert found["sum"] == 5
    assert found["pid"] != os.getpid()
    assert events == [Event("progress", {"done": 2})]


def test_the_worker_measures_its_own_peak_memory(worker: Callable[[str], Worker]) -> None:
    held = b"x" * 300_000_000
    found = launch.run_in_subprocess(worker("measure"), (), null_sink)
    assert found["before"] < len(held)
    assert found["after"] >= found["before"] + 0.9 * found["held"]


def test_the_error_of_the_worker_is_raised_unchanged(worker: Callable[[str], Worker]) -> None:
    with pytest.raises(DataError, match="no label") as raised:
        launch.run_in_subprocess(worker("refuse"), (), null_sink)
    assert (raised.value.where, raised.value.hint) == ("rows.jsonl:7", "give it one")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("exhaust", EnvironmentFault, "not enough memory"),
        ("stumble", LlmctlError, "KeyError: 'nothing'"),
        ("die", EnvironmentFault, "was killed by SIGKILL"),
        ("leave", EnvironmentFault, "exited with code 3 and sent no result"),
    ],
)
def test_a_worker_that_ends_without_a_result_raises_an_error(
    name: str, kind: type[LlmctlError], words: str, worker: Callable[[str], Worker]
) -> None:
    with pytest.raises(kind, match=words) as raised:
        launch.run_in_subprocess(worker(name), (), null_sink)
    assert type(raised.value) is kind


def test_a_stop_request_is_forwarded_to_the_worker(worker: Callable[[str], Worker]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        launch.run_in_subprocess(worker("wait"), (), request_stop)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_stopped_while_saving_finishes_and_the_caller_is_stopped(worker: Callable[[str], Worker]) -> None:
    events: list[str] = []

    def request_stop_once(event: Event) -> None:
        events.append(event.fields["text"])
        if len(events) == 1:
            request_stop(event)

    with pytest.raises(Stopped):
        launch.run_in_subprocess(worker("save"), (), request_stop_once)
    assert events == ["ready", "saved"]


def test_the_worker_does_not_outlive_a_parent_that_fails(worker: Callable[[str], Worker]) -> None:
    pids: list[int] = []

    def fail(event: Event) -> None:
        pids.append(int(event.fields["text"]))
        raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        launch.run_in_subprocess(worker("wait"), (), fail)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
