"""`serve`: open the model, listen, and answer until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

from llmctl.errors import EnvironmentFault
from llmctl.types import Event, EventSink
from llmctl.verbs import Output
from llmctl.workflows.inference.requests import open_request_builder
from llmctl.workflows.inference.session import open_predictor
from llmctl.workflows.serve import app
from llmctl.workflows.serve.checks import ServePlan, bound, socket_error
from llmctl.workflows.serve.connections import TimedConnection
from llmctl.workflows.serve.guard import Guard
from llmctl.workflows.serve.scheduler import Scheduler
from llmctl.workflows.serve.service import Service
from llmctl.workflows.serve.spec import ServeConfig

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
KEEP_ALIVE: Final = 30
"""Seconds that a connection may be idle between two requests."""
OTHER_FILES: Final = 128
"""Open files of the process besides its connections."""
LAST_SECONDS: Final = 3
"""How long connections may take to close after the last answer."""


def serve(plan: ServePlan, emit: EventSink) -> Output:
    """Open the model and listen. The server runs after the address was printed, until a signal ends it.

    Raises what `open_server` raises.
    """
    emit = undisturbed(emit)
    stop = Stop(emit)
    server = open_server(plan, emit)
    stop.catch()
    return Output(
        {"url": server.url, "model": plan.name, "task": plan.model.task.name, "tasks": list(plan.tasks)},
        lambda: [server.url],
        then=lambda: _run(server, stop),
    )


def undisturbed(emit: EventSink) -> EventSink:
    """`emit` for a server, which keeps answering when the file of its events cannot be written."""

    def emitted(event: Event) -> None:
        try:
            emit(event)
        except (OSError, EnvironmentFault) as error:
            emit(Event("warning", {"text": f"events are no longer written: {error}"}))

    return emitted


def open_server(plan: ServePlan, emit: EventSink) -> Server:
    """The model behind an address at which clients can already connect; `Server.run_until_stopped` answers them.

    Raises what `bound` and `open_predictor` raise.
    """
    config = plan.config
    listening = bound(config)
    try:
        request_builder = open_request_builder(plan.model, truncate="refuse", quotes=False, emit=emit)
        predictor = open_predictor(
            plan.model,
            precision=config.precision,
            engine=config.engine,
            request_builder=request_builder,
            emit=emit,
        )
        try:
            listening.listen(config.max_connections)
        except OSError as error:
            raise socket_error(config, error) from error
        scheduler = Scheduler(predictor.engine, rows=config.max_batch, queue=config.max_queue, emit=emit)
        service = Service(plan, predictor.engine, request_builder, scheduler, emit)
        return Server(config, app.build(service, local=_is_loopback(listening)), scheduler, listening)
    except BaseException:
        listening.close()
        raise


def _run(server: Server, stop: Stop) -> int:
    """Serve until the first signal, and then until every request is answered. A second signal ends at once.

    Returns the exit code: 0 after one SIGTERM.
    """
    try:
        stop.ends(server)
        server.run_until_stopped()
    finally:
        stop.release()
    if signal.SIGINT in stop.received:
        return 130
    return 143 if len(stop.received) > 1 else 0


class Server(uvicorn.Server):
    """uvicorn with time limits for slow clients, which answers every accepted request before it ends."""

    def __init__(self, config: ServeConfig, guard: Guard, scheduler: Scheduler, listening: socket.socket) -> None:
        most = min(config.max_connections, _files_for(config.max_connections))
        connection = type("Connection", (TimedConnection,), {"seconds": config.client_timeout, "most": most})
        super().__init__(
            uvicorn.Config(
                guard,
                http=connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=LAST_SECONDS,
                backlog=config.max_connections,
            )
        )
        self.guard, self.scheduler, self.listening = guard, scheduler, listening
        self.url = address(config, listening)
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled by `Stop`."""
        yield

    def run_until_stopped(self) -> None:
        """Serve until `drain` or `end`."""
        # What they log of broken requests and connections would fill the log of an attacked server.
        for name in ("uvicorn", "asyncio", "python_multipart"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.scheduler.start()
        try:
            asyncio.run(self._serve_on_loop())
        finally:
            self.listening.close()
            self.scheduler.stop()

    async def _serve_on_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.guard.draining:  # it was stopped before the loop ran
            self.drain()
        await self.serve(sockets=[self.listening])

    def drain(self) -> None:
        """Refuse new requests, answer those that were accepted, and end. May be called from any thread."""
        self.guard.draining = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_when_idle)

    def end(self) -> None:
        """End without answering what was accepted. May be called from any thread."""
        self.should_exit = self.force_exit = True

    def _end_when_idle(self) -> None:
        assert self._loop is not None
        if self.guard.active:
            self._loop.call_later(0.05, self._end_when_idle)
        else:
            self.should_exit = True


class Stop:
    """The signals that end the server."""

    def __init__(self, emit: EventSink) -> None:
        self.received: list[int] = []
        self._emit = emit
        self._previous: list[tuple[signal.Signals, Any]] = []
        self._server: Server | None = None

    def catch(self) -> None:
        """Keep signals from ending the process; one that comes before the server runs is not lost."""
        if threading.current_thread() is threading.main_thread():
            self._previous = [(each, signal.signal(each, self._receive)) for each in SIGNALS]

    def release(self) -> None:
        """Restore the handlers."""
        for each, handler in self._previous:
            signal.signal(each, handler)

    def ends(self, server: Server) -> None:
        """Signals end this server."""
        self._server = server
        if self.received:
            server.drain()

    def _receive(self, number: int, frame: Any) -> None:
        self.received.append(number)
        if self._server is None:
            return
        if len(self.received) > 1:
            self._server.end()
            return
        if waiting := self._server.guard.active:
            text = f"{waiting} request{'s'[: waiting != 1]} to answer before the end; a second signal ends at once"
            self._emit(Event("note", {"text": text}))
        self._server.drain()


def _files_for(connections: int) -> int:
    """Raise this process's limit on open files for so many connections; how many it allows now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(1, soft - OTHER_FILES)


def address(config: ServeConfig, listening: socket.socket) -> str:
    """`http://HOST:PORT`, with the host as it was given and the port that was taken."""
    port = listening.getsockname()[1]
    return f"http://[{config.host}]:{port}" if ":" in config.host else f"http://{config.host}:{port}"


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
