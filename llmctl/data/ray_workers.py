"""Runs a function on many items on a Ray cluster; see `Executor` in `workers.py`."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, Self, TypeVar

from llmctl.errors import EnvironmentFault, MissingPackage

Item = TypeVar("Item")
Result = TypeVar("Result")

ADDRESS: Final = "RAY_ADDRESS"
"""The variable that names a running cluster; without it, one is started on this machine and ends with the `with` block."""
AHEAD: Final = 2
"""Items submitted per processor of the cluster."""


def check_installed() -> None:
    """Raise `MissingPackage` if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", needed_for="--executor ray", install="pip install 'llmctl[ray]'")


class RayWorkers:
    """The processors of a Ray cluster. Every machine of it needs llmctl, the inputs and the output folder at the same
    paths; results come to this process, which does what concerns all records."""

    def __init__(self, count: int) -> None:
        """`count`: processors of a cluster started here; 0: all. Raises `EnvironmentFault` if none can be reached."""
        check_installed()
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray: Any = ray
        here = {} if os.environ.get(ADDRESS) else {"num_cpus": count or None, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **here)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise EnvironmentFault(
                f"no Ray cluster: {str(error).strip().splitlines()[0]}",
                hint=f"{ADDRESS} names a running one; without it, one is started here",
            ) from error
        self._ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Executor`."""
        remote = self._ray.remote(_call).options(max_retries=2)
        ahead, waiting = iter(items), deque[Any]()
        while True:
            waiting.extend(remote.remote(function, item) for item in islice(ahead, self._ahead - len(waiting)))
            if not waiting:
                return
            result, error = self._get(waiting.popleft())
            if error is not None:
                raise error
            yield result

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EnvironmentFault(
                f"a task of the Ray cluster failed: {str(error).strip().splitlines()[-1]}",
                hint="every machine needs llmctl, the inputs and the output folder at the same paths",
            ) from error


def _call(function: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """The result or the error, which Ray would wrap in one of its own."""
    try:
        return function(item), None
    except Exception as error:
        return None, error
