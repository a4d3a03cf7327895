"""Worker processes: many through torch's elastic launcher (`run`), or a single one (`run_in_subprocess`).

Workers send JSON messages to the parent over a local socket or a pipe; the parent passes their events on. Workers that
find no accelerator request the CPU from `accelerate` explicitly; otherwise each would silently train alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from llmctl import errors
from llmctl.errors import EnvironmentFault, LlmctlError, Stopped, untranslated
from llmctl.processes import end_children_with_this_process
from llmctl.training.world import DEFAULT_PORT, MEETING_SECONDS
from llmctl.types import Event, EventSink

SOCKET: Final = "LLMCTL_EVENTS_SOCKET"
"""Environment variable that holds the port of the parent's socket on this machine."""
_HERE: Final = "127.0.0.1"
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Worker = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Processes:
    """The number of processes per machine, the number of machines, and the rank of this machine."""

    here: int = 1
    machines: int = 1
    machine_rank: int = 0
    main_address: str = "127.0.0.1"

    @property
    def rendezvous(self) -> str:
        """HOST:PORT where the machines meet."""
        host, _, port = self.main_address.partition(":")
        return f"{host}:{port or DEFAULT_PORT}"


def run(worker: Worker, arguments: tuple[Any, ...], processes: Processes, emit: EventSink) -> dict[str, Any] | None:
    """Run `worker(*arguments)` in every process. Returns the result of the first local process, None if stopped.

    Raises the worker's own `LlmctlError` if it sent one, `EnvironmentFault` if a process died or a machine did not join.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    # Failures of workers are reported below; silence torch's own report.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    end_children_with_this_process()
    with _event_listener(emit) as received, _forwarded_signals() as stop_requests:
        try:
            start = elastic_launch(_launch_config(processes), worker)
            if processes.machines > 1:
                emit(Event("note", {"text": _waiting_text(processes)}))
                results = interruptible(lambda: _meet_and(start, processes)(*arguments))
            else:
                results = start(*arguments)
            return dict(results[min(results)])
        except DistError as error:
            raise EnvironmentFault(
                f"the {processes.machines} machines did not meet at {processes.rendezvous}: "
                f"{str(error).splitlines()[0]}",
                hint="--main-address must be the address of machine 0, reachable from all machines; start all of them "
                f"within {MEETING_SECONDS // 60} minutes",
            ) from error
        except SignalException:
            return None
        except ChildFailedError as error:
            if received:
                raise received[0] from error
            if stop_requests:
                return None  # stopped before the workers handled signals
            rank, failure = error.get_first_failure()
            raise EnvironmentFault(
                f"process {rank} {_ending(failure.exitcode)}",
                hint="it may have run out of memory; --processes 1 shows more details",
            ) from error


def run_in_subprocess(worker: Worker, arguments: tuple[Any, ...], emit: EventSink) -> dict[str, Any]:
    """Run `worker(*arguments, channel)` in a process of its own, which isolates its memory and crashes.

    `channel` is an `EventSink`; the return value travels as JSON. SIGTERM and Ctrl-C are forwarded; in the worker they
    raise `KeyboardInterrupt` unless it handles them itself.

    Raises the worker's own `LlmctlError`, `EnvironmentFault` if it died, and `Stopped` after a stop request even if the
    worker finished, so that the caller starts nothing after it.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    end_children_with_this_process()  # a process copies the configuration when it is constructed
    process = spawn.Process(target=_subprocess_main, args=(worker, arguments, sender), name=worker.__name__)
    with _forwarded_signals() as stop_requests, receiver:
        try:
            _start(process)
            sender.close()
            if stop_requests and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)  # requested before the process existed
            outcome = _receive(receiver, emit)
            process.join()
        finally:
            if process.is_alive():
                process.kill()
                process.join()
    if stop_requests:
        raise Stopped("stopped")
    if isinstance(outcome, LlmctlError):
        raise outcome
    if outcome is not None:
        return outcome
    raise EnvironmentFault(
        f"the process {_ending(process.exitcode or 0)}",
        hint="it may have run out of memory: use a smaller batch_size, model or block_size",
    )


def _ending(code: int) -> str:
    """How a process ended that sent neither a result nor an error."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code} and sent no result"


# -- torch's launcher ---------------------------------------------------------------------------------------------


def _launch_config(processes: Processes) -> Any:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    several = processes.machines > 1
    return LaunchConfig(
        min_nodes=processes.machines,
        max_nodes=processes.machines,
        nproc_per_node=processes.here,
        run_id="llmctl",
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=processes.rendezvous if several else "localhost:0",
        rdzv_configs={"rank": processes.machine_rank, "timeout": MEETING_SECONDS} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # by default torch leaves a temporary folder behind
        signals_to_handle="SIGQUIT",
    )


def _meet_and(start: Callable[..., Any], processes: Processes) -> Callable[..., Any]:
    """`start`, once machine 0 is there and does not refuse to train."""

    def met(*arguments: Any) -> Any:
        if processes.machine_rank > 0:
            from llmctl.training import meeting

            host, _, port = processes.rendezvous.rpartition(":")
            meeting.hear(host, int(port), MEETING_SECONDS)
        return start(*arguments)

    return met


def _waiting_text(processes: Processes) -> str:
    others = processes.machines - 1
    return (
        f"machine {processes.machine_rank} of {processes.machines}: waiting at {processes.rendezvous} for "
        f"{others} other{'s'[: others != 1]}, up to {MEETING_SECONDS // 60} minutes"
    )


def interruptible(call: Callable[[], Any]) -> Any:
    """Run `call()` in a thread and return its result or raise its exception.

    torch does not handle signals while it waits for other machines; the main thread does. If a signal handler raises,
    the thread is abandoned.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result()


# -- the single process -------------------------------------------------------------------------------------------


def _start(process: SpawnProcess) -> None:
    """Start a process with stop signals blocked; they stay pending until `_subprocess_main` is ready to handle them."""
    resource_tracker.ensure_running()  # before blocking: starting the tracker unblocks the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _subprocess_main(worker: Worker, arguments: tuple[Any, ...], sender: Connection) -> None:
    """Entry point of the process that `run_in_subprocess` starts."""
    channel = WorkerChannel(sender)
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        channel.result(worker(*arguments, channel))
    except KeyboardInterrupt:
        channel.error(Stopped("stopped"))
    except LlmctlError as error:
        channel.error(error)
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        channel.error(untranslated(error))


# -- signals ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[list[float]]:
    """Forward SIGTERM and Ctrl-C to the workers, which finish their step, save and return. Yields the request times.

    torch's own launcher would wait for workers that wait for it, and kill them after 30 seconds. A second Ctrl-C also
    runs the previous handler, which ends everything at once.
    """
    stop_requests: list[float] = []
    previous: dict[int, Any] = {}

    def forward(number: int, frame: Any) -> None:
        workers = multiprocessing.active_children()
        for pid in [worker.pid for worker in workers if worker.pid is not None]:
            with contextlib.suppress(ProcessLookupError):
                # Python shows a traceback for Ctrl-C, and none for SIGTERM, while it starts.
                os.kill(pid, number if stop_requests else signal.SIGTERM)
        again = bool(stop_requests) and number == signal.SIGINT and time.monotonic() - stop_requests[0] > 0.5
        stop_requests.append(time.monotonic())
        if again or not workers:
            previous[number](number, frame)

    with contextlib.suppress(ValueError):  # outside the main thread, the caller handles signals
        previous |= {number: signal.signal(number, forward) for number in _STOP_SIGNALS}
    try:
        yield stop_requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# -- messages -----------------------------------------------------------------------------------------------------


class WorkerChannel:
    """A worker's connection to its parent: an `EventSink` that sends events as JSON."""

    def __init__(self, connection: Connection | None = None) -> None:
        """`connection`: to the parent; default: the parent's socket, if it listens on one."""
        if connection is None and SOCKET in os.environ:
            key = multiprocessing.current_process().authkey
            connection = Client((_HERE, int(os.environ[SOCKET])), authkey=key)
        self._connection = connection

    def __call__(self, event: Event) -> None:
        self._send({"event": event.name, **event.fields})

    def result(self, value: Mapping[str, Any]) -> None:
        """Send the worker's result; the last message."""
        self._send({"event": "result", "value": value})

    def error(self, error: LlmctlError) -> None:
        """Send the error that ended this worker, so that the user sees it instead of a traceback; the last message."""
        self._send({"event": "error", **errors.encoded(error)})

    def _send(self, message: dict[str, Any]) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send_bytes(json.dumps(message, default=str).encode())


def _receive(connection: Connection, emit: EventSink) -> dict[str, Any] | LlmctlError | None:
    """Pass a worker's events to `emit` until it sends its result or its error; None if it ends without either."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = json.loads(connection.recv_bytes())
            if message["event"] == "error":
                return errors.decoded(message)
            if message["event"] == "result":
                return dict(message["value"])
            emit(Event(message.pop("event"), message))
    return None


@contextlib.contextmanager
def _event_listener(emit: EventSink) -> Iterator[list[LlmctlError]]:
    """Listen on a local port and pass the workers' events to `emit`; yields the list that collects their errors."""
    received: list[LlmctlError] = []
    with Listener((_HERE, 0)) as listener:
        os.environ[SOCKET] = str(listener.address[1])
        threading.Thread(target=_accept, args=(listener, emit, received), daemon=True).start()
        try:
            yield received
        finally:
            del os.environ[SOCKET]


def _accept(listener: Listener, emit: EventSink, received: list[LlmctlError]) -> None:
    key = multiprocessing.current_process().authkey

    def read_events(connection: Connection) -> None:
        try:  # every program on this machine can connect; workers inherit the key
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
        except (multiprocessing.AuthenticationError, EOFError, OSError):
            return
        if isinstance(outcome := _receive(connection, emit), LlmctlError):
            received.append(outcome)

    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=read_events, args=(connection,), daemon=True).start()
