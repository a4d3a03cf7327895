"""Other processes from one command: many through torch's elastic launcher (`run`), or one alone (`run_in_subprocess`).

The parent starts workers and shows what the main one tells; events travel as JSON over a local socket or a pipe. Workers
ask `accelerate` for CPU explicitly where there is no accelerator: else each would train alone without a word.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from llmctl import errors
from llmctl.errors import EnvironmentFault, LlmctlError, Stopped, untranslated
from llmctl.types import Event, EventSink

DEFAULT_PORT: Final = 29500
RENDEZVOUS_SECONDS: Final = 900
"""How long machines wait for each other."""
SOCKET: Final = "LLMCTL_EVENTS_SOCKET"


@dataclass(frozen=True, slots=True)
class Processes:
    """How many there are, and which machine this is."""

    here: int = 1
    machines: int = 1
    machine_rank: int = 0
    main_address: str = "127.0.0.1"


def run(
    worker: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], processes: Processes, emit: EventSink
) -> dict[str, Any] | None:
    """Run `worker(*arguments)` in every process; returns what the first one here returned, None if it was stopped.

    Raises the worker's own `LlmctlError` where there is one, `EnvironmentFault` where a process died or another machine
    did not come.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    # What torch's launcher logs of a worker's end is told below, in our words and once.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _event_listener(emit) as received, _forwarded_signals() as stop_requests:
        try:
            start = elastic_launch(_config(processes), worker)
            if processes.machines > 1:
                emit(Event("note", {"text": _waiting_text(processes)}))
                results = _interruptible(lambda: start(*arguments))
            else:
                results = start(*arguments)
            return dict(results[min(results)])
        except DistError as error:
            raise EnvironmentFault(
                f"the {processes.machines} machines did not meet at {_rendezvous(processes)}: {str(error).splitlines()[0]}",
                hint=f"--main-address is that of machine 0, as all reach it; all start within {RENDEZVOUS_SECONDS // 60} minutes",
            ) from error
        except SignalException:
            return None
        except ChildFailedError as error:
            if received:
                raise received[0] from error
            if stop_requests:
                return None  # before the workers could listen
            rank, failure = error.get_first_failure()
            raise EnvironmentFault(
                f"process {rank} ended with {failure.exitcode}: {failure.message}".strip(),
                hint="--processes 1 shows more; out of memory kills without a word",
            ) from error


def _interruptible(call: Callable[[], Any]) -> Any:
    """What `call()` returns or raises, called in a thread: torch waits for other machines deaf to signals, and the main
    thread hears them meanwhile. It leaves the thread behind where one ends it."""
    found: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            found.append((call(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    value, error = found[0]
    if error is not None:
        raise error
    return value


def _rendezvous(processes: Processes) -> str:
    host, _, port = processes.main_address.partition(":")
    return f"{host}:{port or DEFAULT_PORT}"


def _waiting_text(processes: Processes) -> str:
    others = processes.machines - 1
    return (
        f"machine {processes.machine_rank} of {processes.machines}: waiting at {_rendezvous(processes)} for "
        f"{others} other{'s'[: others != 1]}, up to {RENDEZVOUS_SECONDS // 60} minutes"
    )


def run_in_subprocess(
    worker: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], emit: EventSink
) -> dict[str, Any]:
    """Run `worker(*arguments, channel)` in one process of its own, so that its memory and its end are its own.

    `channel` is a `EventSink`; what the worker returns is read as JSON. SIGTERM and Ctrl-C are handed on: in the worker they
    raise `KeyboardInterrupt` unless it handles them itself.
    Raises the worker's own `LlmctlError`, `EnvironmentFault` where it died, and `Stopped` where stopping was asked for,
    whatever came of the worker: it may have been at its end, and nothing is to begin after it.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_subprocess_main, args=(worker, arguments, sender), name=worker.__name__)
    with _forwarded_signals() as stop_requests, receiver:
        try:
            _start(process)
            sender.close()
            if stop_requests and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)  # asked while it was not there yet
            result = _await_result(receiver, emit)
            process.join()
        finally:
            if process.is_alive():
                process.kill()
                process.join()
    if stop_requests:
        raise Stopped("stopped")
    if isinstance(result, LlmctlError):
        raise result
    if result is not None:
        return result
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code} and said nothing"
    raise EnvironmentFault(
        f"the process {how}", hint="out of memory kills so: a smaller batch_size, model or block_size"
    )


_DEFERRED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def _start(process: SpawnProcess) -> None:
    """Start a process that finds what signals came while it started once it is ready for them: `_subprocess_main` lets them in."""
    resource_tracker.ensure_running()  # which lets them in itself when it is started
    signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFERRED_SIGNALS)


def _subprocess_main(worker: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], sender: Connection) -> None:
    """The process that `run_in_subprocess` starts, from its beginning to its end."""
    channel = WorkerChannel(sender)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in _DEFERRED_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFERRED_SIGNALS)
        channel.result(worker(*arguments, channel))
    except KeyboardInterrupt:
        channel.error(Stopped("stopped"))
    except LlmctlError as error:
        channel.error(error)
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        channel.error(untranslated(error))


def _end_with_parent() -> None:
    """A parent that was killed leaves nobody to tell, and a lock that its next start wants."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _await_result(receiver: Connection, emit: EventSink) -> dict[str, Any] | LlmctlError | None:
    """Show a worker's events until it tells what came of it: a result or an error; None where it ended without."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = json.loads(receiver.recv_bytes())
            if message["event"] == "error":
                return _error(message)
            if message["event"] == "result":
                return dict(message["value"])
            emit(Event(message.pop("event"), message))
    return None


def _config(processes: Processes) -> Any:
    from torch.distributed.launcher.api import LaunchConfig

    several = processes.machines > 1
    return LaunchConfig(
        min_nodes=processes.machines,
        max_nodes=processes.machines,
        nproc_per_node=processes.here,
        run_id="llmctl",
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=_rendezvous(processes) if several else "localhost:0",
        rdzv_configs={"rank": processes.machine_rank, "timeout": RENDEZVOUS_SECONDS} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        signals_to_handle="SIGHUP,SIGQUIT",
    )


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[list[float]]:
    """Hand SIGTERM and Ctrl-C on to the workers, who finish their step, save and return; yields when that was asked.

    torch's launcher would wait for the end of workers that wait for it, and kill them after 30 seconds.
    A second Ctrl-C ends everything now.
    """
    stop_requests: list[float] = []
    previous: dict[int, Any] = {}

    def forward(number: int, frame: Any) -> None:
        workers = multiprocessing.active_children()
        for pid in [worker.pid for worker in workers if worker.pid is not None]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        again = bool(stop_requests) and number == signal.SIGINT and time.monotonic() - stop_requests[0] > 0.5
        stop_requests.append(time.monotonic())
        if again or not workers:
            previous[number](number, frame)

    with contextlib.suppress(ValueError):  # not in the main thread: whoever called keeps the signals
        previous |= {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _event_listener(emit: EventSink) -> Iterator[list[LlmctlError]]:
    """Show the workers' events; yields the list that errors they told are put into."""
    received: list[LlmctlError] = []
    with tempfile.TemporaryDirectory(prefix="llmctl-") as folder:
        address = str(Path(folder) / "events")
        with Listener(address, family="AF_UNIX") as listener:
            os.environ[SOCKET] = address
            threading.Thread(target=_accept, args=(listener, emit, received), daemon=True).start()
            try:
                yield received
            finally:
                del os.environ[SOCKET]


def _accept(listener: Listener, emit: EventSink, received: list[LlmctlError]) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_read_events, args=(connection, emit, received), daemon=True).start()


def _read_events(connection: Connection, emit: EventSink, received: list[LlmctlError]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = json.loads(connection.recv_bytes())
            if message["event"] == "error":
                received.append(_error(message))
            else:
                emit(Event(message.pop("event"), message))


def _error(message: Mapping[str, Any]) -> LlmctlError:
    of: type[LlmctlError] = getattr(errors, message["class"], LlmctlError)
    error = LlmctlError.__new__(of)
    LlmctlError.__init__(error, message["message"], where=message["where"], hint=message["hint"])
    error.kind, error.exit_code = message["kind"], message["exit_code"]
    return error


class WorkerChannel:
    """A worker's way to tell its parent: a `EventSink` whose events travel as JSON."""

    def __init__(self, connection: Connection | None = None) -> None:
        """`connection`: to the parent; the socket that it listens at when not given."""
        listening = connection is None and SOCKET in os.environ
        self._connection = Client(os.environ[SOCKET], family="AF_UNIX") if listening else connection

    def __call__(self, event: Event) -> None:
        self._send({"event": event.name, **event.fields})

    def result(self, value: Mapping[str, Any]) -> None:
        """Tell the parent what came of the work."""
        self._send({"event": "result", "value": value})

    def error(self, error: LlmctlError) -> None:
        """Tell the parent what ended this worker, so that the user is told that and not a stack of processes."""
        self._send(
            {
                "event": "error",
                "class": type(error).__name__,
                "kind": error.kind,
                "exit_code": error.exit_code,
                "message": error.message,
                "where": error.where,
                "hint": error.hint,
            }
        )

    def _send(self, message: dict[str, Any]) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send_bytes(json.dumps(message, default=str).encode())
