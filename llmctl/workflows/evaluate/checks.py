"""Checks of `eval` before anything slow starts: imports nothing heavy, writes nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import registry, reports
from llmctl.compatibility import unreadable
from llmctl.config import Spec
from llmctl.data.reading import predictions as pairs
from llmctl.data.reading.sources import STDIN
from llmctl.errors import ConfigError, DataError, ErrorCollector, Fault, LlmctlError, UsageError
from llmctl.gates import Number
from llmctl.metrics import parse
from llmctl.metrics.spec import MetricSpec
from llmctl.models.resolve import is_costly, open_weights
from llmctl.settings import places
from llmctl.store import atomic, runs
from llmctl.store.prepared import Prepared, is_prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import Event, EventSink, null_sink
from llmctl.workflows.evaluate import rewards
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.inference.engines import engine_for
from llmctl.workflows.inference.model import ModelHandle, find_model

Metrics = list[tuple[MetricSpec, Spec]]


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """A configuration that passed all checks, with what they found."""

    config: EvalConfig
    metrics: Metrics
    handle: ModelHandle | None
    task: Task | None
    """The task of the records; None without a model."""
    reference: ModelHandle | None
    """The reference model of preference pairs."""
    out: Path | None
    recorded: tuple[Number, ...] | None = None
    """Scores of the baseline, where it is a `scores.json` and not predictions."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "task": self.task.name if self.task else None,
            "metrics": [parse.label(*each) for each in self.metrics],
            "gates": [gate.require for gate in self.config.require],
            "out": str(self.out) if self.out else None,
        }


def preflight(
    config: EvalConfig, *, force: bool, offline: bool, verify: bool = False, emit: EventSink = null_sink
) -> EvalPlan:
    """Check everything that needs no torch; raises all faults at once."""
    _check_sides(config)
    collector = ErrorCollector()
    handle = _model(config, collector, offline=offline, verify=verify, emit=emit)
    task = _records_task(config, handle) if handle is not None else None
    reference = None
    if handle is not None and task is not None:
        opening: dict[str, Any] = {"offline": offline, "verify": verify, "emit": emit}
        reference = collector.check("reference", rewards.reference_of, config, handle, task, **opening)
    recorded = None
    if config.predictions is not None:
        collector.check("predictions", pairs.check_file, config.predictions, "predictions")
    if config.baseline is not None:
        collector.check("baseline", pairs.check_file, config.baseline, "predictions")
        recorded = collector.check("baseline", _recorded, config.baseline) if collector.ok else None
    for references in config.references:
        collector.check("references", pairs.check_file, references, "references")
    metrics = None
    if handle is not None or config.model is None:
        metrics = collector.check("metric", metrics_of, config, task)
    if metrics is not None:
        collector.check("require", _check_gates, config, metrics)
    out = config.out or _out(config, emit)
    if out is not None:
        collector.check("out", _check_out, config, out, force=force)
    for key, path in (("junit", config.junit), ("markdown", config.markdown)):
        if path is not None:
            collector.check(key, reports.check, path, _inputs(config), force=force)
    if config.junit is not None and config.markdown is not None:
        collector.check("markdown", atomic.refuse_same, config.markdown, [config.junit])
    if handle is not None:
        collector.check("engine", engine_for, handle, config.engine)
    collector.raise_all()
    assert metrics is not None
    return EvalPlan(config, metrics, handle, task, reference, out, recorded)


def _check_gates(config: EvalConfig, metrics: Metrics) -> None:
    parse.check_gates(config.require, [spec for spec, _ in metrics], baseline=config.baseline is not None)


def _inputs(config: EvalConfig) -> list[Path]:
    return places(
        config.predictions, config.baseline, None if _is_built_in(config.data) else config.data, *config.references
    )


def _recorded(path: Path) -> tuple[Number, ...] | None:
    """The scores in a `scores.json` of an earlier `eval` (or its `--json` document); None for other files."""
    if path.suffix != ".json":
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict) or "scores" not in document:
        return None  # a JSON list of predictions
    found = []
    try:
        for score in document["scores"]:
            value = math.nan if score["value"] is None else float(score["value"])
            found.append(Number(str(score["metric"]), value, int(score["n"]), str(score["signature"])))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a score lacks metric, value, n or signature: {error}",
            where=f"{path}:scores[{len(found)}]",
            hint="take the scores.json that eval --out writes, or predictions",
        ) from error
    return tuple(found)


def _check_out(config: EvalConfig, out: Path, *, force: bool) -> None:
    if config.out is not None:
        atomic.refuse_existing(out, force=force, marker="scores.json")
        atomic.refuse_same(out, _inputs(config))
    atomic.check_writable(out)


def _check_sides(config: EvalConfig) -> None:
    faults: list[Fault] = []
    if (config.model is None) == (config.predictions is None):
        faults.append(Fault("", "eval takes either --model with --data, or --predictions with --references"))
    elif config.model is not None and config.data is None:
        faults.append(Fault("data", "is required with --model", "a prepared folder or a file of records"))
    elif config.predictions is not None and not config.references:
        faults.append(Fault("references", "are required with --predictions"))
    if config.model is not None and config.references:
        faults.append(Fault("references", "are for --predictions", "a model is scored against the records of --data"))
    if config.predictions is not None and config.data is not None:
        faults.append(Fault("data", "is for --model", "predictions are scored against --references"))
    if config.instruction is not None and config.model is None:
        faults.append(Fault("instruction", "is for --model", "leave it out: predictions are scored unchanged"))
    piped = [each for each in _inputs_named(config) if str(each) == STDIN]
    if len(piped) > 1:
        faults.append(Fault("", "standard input (-) can be read only once", "name files for the others"))
    if faults:
        raise ConfigError(faults)


def _inputs_named(config: EvalConfig) -> list[Path | None]:
    return [config.predictions, config.baseline, *config.references]


def _model(
    config: EvalConfig, collector: ErrorCollector, *, offline: bool, verify: bool, emit: EventSink
) -> ModelHandle | None:
    """The model, checked against the data; None without a model, or where `collector` holds a fault of either."""
    if config.model is None:
        return None
    data = collector.check("data", _data, config, verify=verify)
    opening: dict[str, Any] = {"offline": offline, "verify": verify, "emit": emit}
    if not collector.ok and is_costly(config.model):
        return None
    if data is None:
        # Without the data its task is not known: check the weights only.
        collector.check("model", open_weights, config.model, base=config.base, **opening)
        return None
    return collector.check("model", _open_model, config, data, **opening)


def _data(config: EvalConfig, *, verify: bool) -> Prepared | Path:
    """A prepared folder, or a file of records."""
    assert config.data is not None
    if not is_prepared(config.data):
        if not (config.data.exists() or _is_built_in(config.data)):
            hint = "a prepared folder, a file of records or a built-in data set"
            raise UsageError(f"no such data: {config.data}", hint=hint)
        return config.data
    prepared = open_prepared(config.data)
    if not prepared.manifest.splits.get(config.split):
        raise DataError(f"the {config.split} split is empty", where=str(config.data), hint="name another: --split")
    prepared.check_files(verify=verify, only=prepared.text(config.split))
    return prepared


def _open_model(config: EvalConfig, data: Prepared | Path, **opening: Any) -> ModelHandle:
    """The model, checked against the task and labels of the data. `opening`: of `find_model`."""
    assert config.model is not None
    if rewards.pairs_task(_name_of_task(config, data)):
        return find_model(config.model, otherwise="chat", instruction=config.instruction, base=config.base, **opening)
    if isinstance(data, Path):
        handle = find_model(config.model, task=config.task, instruction=config.instruction, base=config.base, **opening)
        if handle.task.labelled and handle.family != "encoder" and not (config.labels or handle.labels):
            return handle  # chooses from the labels of the records, which are read later
        return handle.choosing(config.labels, calibrate=config.calibrate)
    prepared_for = data.manifest.task
    handle = find_model(
        config.model,
        task=config.task,
        otherwise=prepared_for,
        instruction=config.instruction,
        base=config.base,
        **opening,
    )
    if handle.task.name != prepared_for:
        raise UsageError(f"the model answers {handle.task.name}, {config.data} was prepared for {prepared_for}")
    labels = config.labels or (() if handle.labels else data.manifest.labels)
    return handle.choosing(labels, calibrate=config.calibrate)


def _name_of_task(config: EvalConfig, data: Prepared | Path) -> str | None:
    return data.manifest.task if isinstance(data, Prepared) else config.task


def _records_task(config: EvalConfig, handle: ModelHandle) -> Task:
    """The task of the records: that of the model, except for preference pairs."""
    assert config.data is not None
    data = open_prepared(config.data) if is_prepared(config.data) else config.data
    return rewards.pairs_task(_name_of_task(config, data)) or handle.task


def _is_built_in(data: Path | None) -> bool:
    """Whether the data are a built-in data set; a file or folder of the same name takes precedence."""
    return data is not None and not data.exists() and str(data) in registry.table("datasets").lookup


def metrics_of(config: EvalConfig, task: Task | None) -> Metrics:
    """The requested metrics; default: the task's. Raises `UsageError` for one that cannot score the answers."""
    found = [(each.spec, each.options) for each in config.metric]
    if not found and task is not None:
        found = [parse.parse_metric(each) for each in task.metrics]
    if not found:
        gates = dict.fromkeys(parse.request_score(gate.name).spec.name for gate in config.require)
        named = " ".join(f"--metric {name}" for name in gates or ("bleu",))
        raise UsageError("eval of files needs a metric", hint=f"{named}; see: llmctl list metrics")
    wrong = [spec.name for spec, _ in found if spec.output_type == "likelihood"] if config.model is None else []
    if wrong:
        raise UsageError(f"{', '.join(wrong)} needs a model: likelihoods are not in a file of predictions")
    if task is not None and (reasons := [why for spec, _ in found if (why := unreadable(spec, task))]):
        raise UsageError("; ".join(reasons), hint=f"metrics of the task: {', '.join(task.metrics)}")
    return found


def _out(config: EvalConfig, emit: EventSink) -> Path | None:
    """A new folder for the scores inside the run, if the model is one and the run can be written to."""
    if config.model is None or not (Path(config.model) / runs.RUN).is_file():
        return None
    folder = Path(config.model) / "evals"
    try:
        atomic.check_writable(folder / "scores.json")
    except LlmctlError as error:
        emit(Event("warning", {"text": f"{error}: scores are printed and not kept; to keep them: --out DIR"}))
        return None
    name = f"{config.split}-{runs.now().replace(':', '').replace('-', '')}"
    numbers = ("", *(f"-{number}" for number in range(2, 10_000)))
    return next(folder / (name + number) for number in numbers if not (folder / (name + number)).exists())
