"""Experiment trackers: the rows of `metrics.jsonl`, sent to TensorBoard, W&B, MLflow or Trackio by accelerate's trackers.

Everything stays in RUN/trackers unless the tracker's own environment variables (`WANDB_MODE`, `MLFLOW_TRACKING_URI`,
`TRACKIO_DIR`) say otherwise. A resumed run continues the same record.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.errors import EnvironmentFault, LlmctlError
from llmctl.store import atomic
from llmctl.store.safety import read_json
from llmctl.training.spec import TRACKERS, TrackerName

FOLDER: Final = "trackers"
PROJECT: Final = "llmctl"


class Trackers:
    """The trackers of a run, in its main process."""

    def __init__(self, names: Sequence[TrackerName], run: Path) -> None:
        self._names, self._run = tuple(dict.fromkeys(names)), run
        self._open: list[tuple[TrackerName, Any]] = []

    # Each tracker has a package, and often a server, of its own: all that they raise are faults of the environment.

    def start(self, settings: Mapping[str, Any], *, resumed_at: int | None) -> None:
        """Open all of them. `settings`: of the run, recorded when it begins; `resumed_at`: the step that it continues from.

        Raises `EnvironmentFault` for one that fails, as the other methods do.
        """
        for name in self._names:
            folder = self._run / FOLDER / name
            folder.mkdir(parents=True, exist_ok=True)
            with _faults_of(name):
                tracker = _MAKERS[name](folder, self._run.name, resumed_at)
                tracker.start()
                if resumed_at is None or name == "trackio":  # which forgets the settings of a run that it resumes
                    tracker.store_init_configuration(dict(_flat(settings)))
            _remember(folder, tracker)
            self._open.append((name, tracker))

    def add(self, row: Mapping[str, Any]) -> None:
        """Log a row of `metrics.jsonl` at its step."""
        values = {name: value for name, value in row.items() if name != "step" and isinstance(value, int | float)}
        for name, tracker in self._open:
            with _faults_of(name):
                tracker.log(values, step=row["step"])

    def finish(self) -> None:
        for name, tracker in self._open:
            with _faults_of(name):
                tracker.finish()
        self._open.clear()


@contextlib.contextmanager
def _faults_of(name: TrackerName) -> Iterator[None]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # which is for results, not for greetings of packages
            yield
    except LlmctlError:
        raise
    except Exception as error:
        raise EnvironmentFault(
            f"the tracker {name} failed: {type(error).__name__}: {error}",
            hint="repair its package or server; or resume without it: --set tracker=[]",
        ) from error


def _tensorboard(folder: Path, run: str, resumed_at: int | None) -> Any:
    from accelerate.tracking import TensorBoardTracker

    # Steps that are trained again replace those that were logged before the interruption.
    purge = {} if resumed_at is None else {"purge_step": resumed_at + 1}
    return TensorBoardTracker(run, folder, **purge)


def _wandb(folder: Path, run: str, resumed_at: int | None) -> Any:
    from accelerate.tracking import WandBTracker

    mode = os.environ.get("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandBTracker(PROJECT, name=run, dir=str(folder), mode=mode, id=_remembered(folder), resume="allow")


def _mlflow(folder: Path, run: str, resumed_at: int | None) -> Any:
    from accelerate.tracking import MLflowTracker

    if "MLFLOW_TRACKING_URI" not in os.environ:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
    return MLflowTracker(
        PROJECT, logging_dir=(folder / "artifacts").absolute().as_uri(), run_name=run, run_id=_remembered(folder)
    )


def _trackio(folder: Path, run: str, resumed_at: int | None) -> Any:
    os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))
    import trackio
    from accelerate.tracking import TrackioTracker

    tracker = TrackioTracker(PROJECT, name=run, resume="allow")
    tracker.finish = trackio.finish  # closes the run for good; otherwise it is closed, and says so, once more at exit
    return tracker


_MAKERS: Final[Mapping[TrackerName, Callable[[Path, str, int | None], Any]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
assert _MAKERS.keys() == TRACKERS.keys()


def _remember(folder: Path, tracker: Any) -> None:
    """Keep the id that the tracker gave the run."""
    run = tracker.tracker
    number = getattr(run, "id", None) or getattr(getattr(run, "info", None), "run_id", None)
    if isinstance(number, str):
        atomic.write_json(folder / "run.json", {"id": number})


def _remembered(folder: Path) -> str | None:
    path = folder / "run.json"
    found = read_json(path).get("id") if path.is_file() else None
    return found if isinstance(found, str) else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, bool | int | float | str]]:
    """Nested settings under names with dots; lists as text, unset ones left out."""
    found: list[tuple[str, bool | int | float | str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((prefix + name, value if isinstance(value, bool | int | float | str) else str(value)))
    return found
