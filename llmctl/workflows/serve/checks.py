"""Everything about `serve` that can be checked before torch is imported."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.compatibility import references_audio
from llmctl.errors import BusyError, EnvironmentFault, ErrorCollector, LlmctlError, MissingPackage, UsageError
from llmctl.models.spec import HUB
from llmctl.store.runs import RUN
from llmctl.types import EventSink, null_sink
from llmctl.workflows.inference.engines import engine_for
from llmctl.workflows.inference.model import ModelHandle, find_model
from llmctl.workflows.serve.spec import ServeConfig

LONGEST_KEY_FILE: Final = 1 << 20
PACKAGES: Final = ("starlette", "uvicorn", "python_multipart")


@dataclass(frozen=True, slots=True)
class ServePlan:
    """A configuration that passed all checks."""

    config: ServeConfig
    model: ModelHandle
    tasks: Mapping[str, ModelHandle]
    """What the model can be asked, by task; its own is among them."""
    name: str
    """The name of the model for clients."""
    keys: tuple[bytes, ...]
    """The keys that clients may use; none: no key is needed."""

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        return {
            "model": str(self.model.folder.path),
            "name": self.name,
            "task": self.model.task.name,
            "tasks": list(self.tasks),
            "family": self.model.family,
            "keys": len(self.keys),
        }


def preflight(config: ServeConfig, *, offline: bool, verify: bool = False, emit: EventSink = null_sink) -> ServePlan:
    """Check everything that needs no torch. Raises all faults at once: `UsageError`s, `MissingPackage`, `BusyError` for a
    port in use, and what `find_model` raises."""
    collector = ErrorCollector()
    collector.check("", _check_packages)
    keys = collector.check("api_key_file", read_keys, config.api_key_file)
    collector.check("host", _check_host, config)
    if collector.ok:
        collector.check("port", _check_port, config)
    model = collector.check(
        "model",
        find_model,
        config.model,
        task=config.task,
        base=config.base,
        offline=offline,
        verify=verify,
        emit=emit,
    )
    if model is not None:
        collector.check("model", _check_local, model)
        collector.check("model", references_audio, model.task)
        collector.check("engine", engine_for, model, config.engine)
        model = collector.check("model", model.choosing)
    collector.raise_all()
    assert model is not None
    assert keys is not None
    return ServePlan(config, model, _tasks(config, model, offline=offline), config.name or _name(config.model), keys)


def _check_packages() -> None:
    missing = next((each for each in PACKAGES if importlib.util.find_spec(each) is None), None)
    if missing is not None:
        raise MissingPackage(missing, needed_for="serve", install="pip install 'llmctl[serve]'")


def _check_local(model: ModelHandle) -> None:
    if model.server is not None:
        raise UsageError(
            f"{model.reference} is served already", hint="ask that server, or serve a model folder, a run or hf:NAME"
        )


def _check_host(config: ServeConfig) -> None:
    address = resolve(config)[4][0]
    if config.api_key_file is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise UsageError(
            f"the host {config.host} can be reached from other machines, so clients need a key",
            hint="--api-key-file FILE, with a key on each line, or --host 127.0.0.1",
        )


def resolve(config: ServeConfig) -> Any:
    """The address to listen on, as `socket.getaddrinfo` gives it: IPv4 if the host has both."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"the host {config.host!r} has no address", hint="--host 127.0.0.1") from error
    return min(found, key=lambda each: each[0] != socket.AF_INET)


def bound(config: ServeConfig) -> socket.socket:
    """A socket that is bound to the address. Raises `BusyError` if the port is in use, `UsageError` if the address is not
    of this machine, `EnvironmentFault` if the port is not allowed."""
    family, kind, protocol, _, address = resolve(config)
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise socket_error(config, error) from error
    return made


def socket_error(config: ServeConfig, error: OSError) -> LlmctlError:
    """The error of ours for one of binding and listening."""
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return BusyError(f"the port {config.port} of {config.host} is in use", hint="--port 0 takes a free one")
    if error.errno == errno.EACCES:
        return EnvironmentFault(f"the port {config.port} needs more rights", hint="choose one above 1023: --port 8000")
    return UsageError(f"cannot listen on {place}: {error.strerror}", hint="--host 127.0.0.1")


def _check_port(config: ServeConfig) -> None:
    """Raise what listening would raise, before the weights are loaded."""
    with bound(config) as made:
        try:
            made.listen()
        except OSError as error:
            raise socket_error(config, error) from error


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a file: one per line; blank lines and those that start with # do not count.

    Raises `UsageError` for a file that is missing, unreadable, or has no key or one that is no key.
    """
    if path is None:
        return ()
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(LONGEST_KEY_FILE)
    except OSError as error:
        raise UsageError(f"cannot read the keys of {path}: {error.strerror}", hint="one key per line") from error
    lines = [line.strip() for line in data.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise UsageError(f"{path} has no key", hint=f"openssl rand -hex 32 > {path}")
    for number, line in enumerate(lines, start=1):
        if line in keys and not all(32 < byte < 127 for byte in line):
            raise UsageError(f"{path}:{number}: a key is ASCII without blanks", hint="openssl rand -hex 32 makes one")
    return keys


def _tasks(config: ServeConfig, model: ModelHandle, *, offline: bool) -> dict[str, ModelHandle]:
    """The model with every task that its family can be prompted with, its own first."""
    found = {model.task.name: model}
    for entry in registry.entries("tasks"):
        task = registry.load("tasks", entry.name)()
        if entry.name in found or task.modality != "text" or model.family not in task.promptable:
            continue
        handle = find_model(config.model, task=entry.name, base=config.base, offline=offline)
        if not handle.task.labelled or handle.labels:
            found[entry.name] = handle
    return found


def _name(reference: str) -> str:
    """The name of a model for clients: never a path. `runs/poems/model` -> `poems`."""
    if reference.startswith(HUB):
        return reference.removeprefix(HUB)
    path = Path(reference).expanduser().resolve()
    if path.name == "model" and (path.parent / RUN).is_file():
        path = path.parent
    return (path.stem if path.is_file() else path.name) or "model"
