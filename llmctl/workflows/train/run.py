"""`train`: open the run folder, train in one process or several, record how the run ended."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from llmctl import environment, processes
from llmctl.errors import EnvironmentFault, LlmctlError, Stopped, Terminated, naming, untranslated
from llmctl.readable import quoted
from llmctl.store import locks, runs
from llmctl.training import refusal as refusals
from llmctl.training import world
from llmctl.training.world import MEETING_SECONDS, UNSURE_SECONDS, World
from llmctl.types import Event, EventSink, null_sink
from llmctl.workflows.train.checks import TrainPlan, preflight
from llmctl.workflows.train.fitting import changes, refusal
from llmctl.workflows.train.forecast import forecast
from llmctl.workflows.train.spec import TrainConfig

__all__ = ["TrainResult", "preflight", "train"]

Train = Callable[[TrainPlan, EventSink], dict[str, Any] | None]
SILENT_SECONDS: Final = 10.0
"""How long a process waits for process 0 without a word."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; `fields` is its JSON document."""

    status: runs.Status
    fields: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return dict(self.fields)


def train(plan: TrainPlan, emit: EventSink, *, force: bool = False) -> TrainResult:
    """Train in this process, in as many as requested, or as one of those that another launcher started.

    Raises `Stopped` (75) on SIGTERM or Ctrl-C.
    """
    config = plan.config
    if config.precision == "fp16":
        from llmctl.training import devices

        devices.resolve_precision("fp16")
    if plan.world is not None and _join(plan.world, emit):
        follows = plan.world.follows
        return _follow(plan) if follows else _lead(plan, emit, force=force, train=_one_process)
    plan = replace(plan, world=None)
    asked = environment.asked_of_accelerate() or 1
    if text := environment.forget_launchers():
        emit(Event("note", {"text": text}))
    here = _processes_here(config, asked, emit)
    if config.machine_rank > 0:
        _warn_of_memory(plan, emit)
        return _result(_many_processes(plan, emit, here))
    if here * config.machines == 1:
        return _lead(plan, emit, force=force, train=_one_process)
    return _lead(plan, emit, force=force, train=functools.partial(_many_processes, here=here))


def _join(given: World, emit: EventSink) -> bool:
    """Meet the processes that another launcher started. False where no launcher is seen and nobody comes: the variables were
    left over in a shell."""
    from llmctl.training import launch, meeting

    seconds = MEETING_SECONDS if given.launcher else UNSURE_SECONDS
    by = f"started by {given.launcher}" if given.launcher else "by RANK and WORLD_SIZE"
    others = "process 0" if given.follows else "the others"
    text = f"process {given.rank} of {given.size}, {by}: waiting for {others} at {given.address}:{given.port}, up to {seconds} s"
    note = Event("note", {"text": text})
    later = threading.Timer(SILENT_SECONDS, emit, [note])
    later.daemon = True
    if given.follows:  # process 0 speaks for all of them, if it is there
        later.start()
    else:
        emit(note)
    given.announce()
    for name in [each for each in os.environ if each.startswith("ACCELERATE_")]:
        del os.environ[name]
    try:
        launch.interruptible(lambda: meeting.join(seconds))
    except EnvironmentFault:
        if given.launcher or given.follows:
            raise
        return False
    finally:
        later.cancel()
    return True


def _processes_here(config: TrainConfig, asked: int, emit: EventSink) -> int:
    """How many processes to start on this machine; `asked`: of accelerate, which started one of them."""
    if config.processes != "auto":
        return config.processes
    from llmctl.training import devices

    found = devices.count()
    if not found:
        if asked > 1:
            text = (
                f"accelerate started one process, as it does without a GPU; {asked} were asked for: starting them here"
            )
            emit(Event("note", {"text": text}))
        return asked
    if found > 1:
        emit(Event("note", {"text": f"{found} processes, one for each accelerator (--processes 1 uses one of them)"}))
    return found


def _lead(plan: TrainPlan, emit: EventSink, *, force: bool, train: Train) -> TrainResult:
    """Open the run, let `train` train it, and record how that ended."""
    config = plan.config
    out = config.out
    _warn_of_memory(plan, emit)
    with contextlib.ExitStack() as held:

        def open_run() -> None:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locks.locked(out))
            runs.open_folder(out, "train", plan.origin.settings, empty=force and not plan.resume)

        _sent_to_followers(plan, open_run, emit)
        record = runs.begin(
            out,
            "train",
            model=config.model.name,
            task=plan.task.name,
            parents=plan.origin.parents,
            settings=plan.origin.settings,
        )
        with naming(out), _log(out, emit) as log:
            try:
                fields = train(plan, log)
            except (KeyboardInterrupt, Terminated) as ended:
                runs.end(out, record, "stopped", exit_code=143 if isinstance(ended, Terminated) else 130)
                raise
            except Exception as error:
                known = error if isinstance(error, LlmctlError) else untranslated(error)
                with contextlib.suppress(OSError):  # a full disk is reported, not that it was met twice
                    runs.end(out, record, "failed", exit_code=known.exit_code, error=str(known))
                raise
        status: runs.Status = "finished" if fields is not None and fields["finished"] else "stopped"
        shown = {name: value for name, value in (fields or {}).items() if name != "finished"}
        runs.end(out, record, status, exit_code=0 if status == "finished" else Stopped.exit_code, result=shown)
    if status == "stopped":
        where = f"step {shown['steps']}, all state is saved" if "steps" in shown else "the last checkpoint"
        raise Stopped(f"stopped at {where}", hint=f"continue: llmctl train --resume {quoted(out)}")
    return TrainResult(status, shown)


def _sent_to_followers(plan: TrainPlan, make: Callable[[], None], emit: EventSink) -> None:
    """Call `make` in the process that leads; the others go on after it, or end with its error."""
    if plan.world is None:
        try:
            return make()
        except LlmctlError as error:
            send_refusal(plan.config, error, emit)
            raise
    from llmctl.training import meeting

    meeting.from_main(make)
    return None


def send_refusal(config: TrainConfig, error: LlmctlError, emit: EventSink) -> None:
    """Send the error to the other processes of the run, which may wait for this one."""
    if place := _meeting_place(config):
        host, port, others, leads = place
        refusals.send(error, host, port, others, emit) if leads else refusals.send_too(host, port)


def call_leader(config: TrainConfig) -> None:
    """Let the first process of the run, which may refuse to train, know of this one."""
    if (place := _meeting_place(config)) and not place[3]:
        refusals.call(*place[:2])


def _meeting_place(config: TrainConfig) -> tuple[str, int, int, bool] | None:
    """Host and port where processes of the run wait for the first one, how many others there are, and whether this one is
    the first. None: nobody waits; torchrun and `accelerate launch` end the others themselves."""
    found = world.find()
    if found is not None:
        if found.launcher is None or "TORCHELASTIC_RUN_ID" in os.environ:
            return None
        return found.address, found.port, found.size - 1, not found.follows
    if config.machines > 1:
        from llmctl.training.launch import Processes

        host, _, place = Processes(main_address=config.main_address).rendezvous.rpartition(":")
        return host, int(place), config.machines - 1, config.machine_rank == 0
    return None


def _follow(plan: TrainPlan) -> TrainResult:
    """Train as one of the processes that do not lead: it writes and reports nothing of its own."""
    _sent_to_followers(plan, lambda: None, null_sink)
    return _result(_one_process(plan, null_sink))


def _warn_of_memory(plan: TrainPlan, emit: EventSink) -> None:
    """Warn of a run that does not fit; free memory fluctuates, so it is not rejected."""
    made = forecast(plan)
    if not made.fits:
        error = refusal(made, changes(plan))
        emit(Event("warning", {"text": f"{error}; {error.hint}"}))


def _result(fields: dict[str, Any] | None) -> TrainResult:
    if fields is None or not fields.pop("finished"):
        raise Stopped("stopped", hint="continue on every machine: --resume")
    return TrainResult("finished", fields)


@contextlib.contextmanager
def _log(out: Path, emit: EventSink) -> Iterator[EventSink]:
    """An `EventSink` that also writes each text to `log.txt`."""
    with (out / "log.txt").open("a", encoding="utf-8") as file:

        def both(event: Event) -> None:
            if "text" in event.fields:
                file.write(f"{runs.now()} {event.fields['text']}\n")
                file.flush()
            emit(event)

        yield both


def _many_processes(plan: TrainPlan, emit: EventSink, here: int) -> dict[str, Any] | None:
    config = plan.config
    from llmctl.training import launch

    asked = launch.Processes(here, config.machines, config.machine_rank, config.main_address)
    return launch.run(_worker, (config.model_dump_json(), plan.resume, dict(plan.parents)), asked, emit)


def _worker(config_json: str, resume: bool, parents: Mapping[str, str]) -> dict[str, Any]:
    """One of several processes: rebuild everything from the configuration and report through the parent.

    `parents`: as the starting process found them; hashing large weights once is enough.
    """
    from llmctl.training import launch

    config = TrainConfig.model_validate_json(config_json)
    processes.kill_with_parent()  # torch has replaced the signal
    channel = launch.WorkerChannel()
    main = int(os.environ["RANK"]) == 0
    try:
        plan = preflight(config, force=True, offline=True, resume=resume, in_worker=True, parents=parents)
        return _one_process(plan, channel if main else null_sink)
    except Exception as error:
        known = error if isinstance(error, LlmctlError) else untranslated(error)
        if known.kind != LlmctlError.kind:  # a bug shows its own traceback
            channel.error(known)
        raise


@dataclass
class StopSignal:
    """Set by SIGTERM or Ctrl-C: finish the step, save, exit. A second Ctrl-C, at least 0.5 s later, exits at once."""

    requested_at: float | None = None
    previous: dict[int, Any] = field(default_factory=dict)

    def __call__(self) -> bool:
        return self.requested_at is not None

    def _request(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.requested_at is not None and time.monotonic() - self.requested_at > 0.5:
            raise KeyboardInterrupt
        self.requested_at = self.requested_at or time.monotonic()

    def __enter__(self) -> StopSignal:
        with contextlib.suppress(ValueError):  # outside the main thread the caller keeps its handlers
            self.previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _one_process(plan: TrainPlan, emit: EventSink) -> dict[str, Any]:
    """Train as one of the processes of the run."""
    with naming(plan.config.out), StopSignal() as stop:
        from llmctl.training import machine

        sharded = plan.config.parallel == "fsdp" and int(os.environ.get("WORLD_SIZE", "1")) > 1
        machine.return_memory() if sharded else machine.keep_memory()
        from llmctl.workflows.train.trainer import TrainingRun

        run = TrainingRun(plan, emit)
        return run.go(stop)
