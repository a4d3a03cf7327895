"""`eval`: scores of a model on data, or of predictions against references; gates."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from llmctl.config import Spec
from llmctl.errors import ConfigError, DataError, Fault, Findings, UsageError
from llmctl.metrics import parse
from llmctl.metrics.parse import Gate, GateResult
from llmctl.metrics.spec import MetricSpec
from llmctl.store import runs, whole
from llmctl.store.prepared import Prepared, is_prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import Answer, Record, Score, Tell, silent
from llmctl.workflows import pairs
from llmctl.workflows.given_model import GivenModel, find_model
from llmctl.workflows.spec import EvalConfig
from llmctl.workflows.train_checks import unreadable
from llmctl.workflows.weights import open_weights

Metrics = list[tuple[MetricSpec, Spec]]
Facts = Mapping[str, Mapping[str, str]]
"""What the signatures of scores must say of how a model was asked, by what their metrics read."""
TOLD: Final = "instruction"
"""In a signature: the hash of what the user chose that the model be told."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found sound before anything slow."""

    metrics: Metrics
    gates: tuple[Gate, ...]
    given: GivenModel | None
    out: Path | None

    def facts(self) -> dict[str, Any]:
        return {
            "task": self.given.task.name if self.given else None,
            "metrics": [parse.label(*each) for each in self.metrics],
            "gates": [gate.require for gate in self.gates],
            "out": str(self.out) if self.out else None,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """Scores and whether the gates are met."""

    scores: tuple[Score, ...]
    gates: tuple[GateResult, ...]
    comparison: tuple[Mapping[str, Any], ...]
    predictions: str | None
    seconds: float
    instruction: str | None = None
    """What the model was told to do, where the user chose it."""

    @property
    def met(self) -> bool:
        return all(gate.met for gate in self.gates)

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "scores": [score_fields(score) for score in self.scores],
            "gates": [
                {"require": gate.require, "met": gate.met, "value": gate.value, "why": gate.why} for gate in self.gates
            ],
            "predictions": self.predictions,
            "seconds": round(self.seconds, 3),
        }
        if self.instruction is not None:
            found["instruction"] = self.instruction
        if self.comparison:
            found["comparison"] = list(self.comparison)
        cleaned: dict[str, Any] = runs.without_nan(found)
        return cleaned


def score_fields(score: Score) -> dict[str, Any]:
    fields = asdict(score)
    return {name: fields[name] for name in ("metric", "value", "scale", "signature", "n", "ci", "higher_is_better")}


def preflight(config: EvalConfig, *, force: bool, offline: bool, tell: Tell = silent) -> Checked:
    """Everything that can be checked without torch; raises all that is wrong."""
    _check_sides(config)
    findings = Findings()
    given = _asked(config, findings, offline=offline, tell=tell)
    for key, path in (("predictions", config.predictions), ("baseline", config.baseline)):
        if path is not None:
            findings.of(key, pairs.check_file, path, "predictions")
    for path in config.references:
        findings.of("references", pairs.check_file, path, "references")
    metrics, gates = None, None
    if given is not None or config.model is None:
        metrics = findings.of("metric", metrics_of, config, given.task if given else None)
    if metrics is not None:
        gates = findings.of("require", _gates, config, metrics)
    out = config.out or _out(config)
    if out is not None:
        findings.of("out", _check_out, config, out, force=force)
    for key, path in (("junit", config.junit), ("markdown", config.markdown)):
        if path is not None:
            findings.of(key, _check_report, config, path, force=force)
    if config.junit is not None and config.markdown is not None:
        findings.of("markdown", whole.refuse_same, config.markdown, [config.junit])
    findings.tell()
    assert metrics is not None
    assert gates is not None
    return Checked(metrics, gates, given, out)


def _gates(config: EvalConfig, metrics: Metrics) -> tuple[Gate, ...]:
    gates = tuple(parse.parse_gate(each) for each in config.require)
    parse.check_gates(gates, [spec for spec, _ in metrics], baseline=config.baseline is not None)
    return gates


def _inputs(config: EvalConfig) -> list[Path]:
    return [each for each in (config.predictions, config.baseline, config.data, *config.references) if each is not None]


def _check_report(config: EvalConfig, path: Path, *, force: bool) -> None:
    whole.refuse_same(path, _inputs(config))
    if path.is_dir():
        raise UsageError(f"the report {path} is a folder", hint="name a file")
    whole.refuse_existing(path, force=force)
    whole.check_writable(path)


def _check_out(config: EvalConfig, out: Path, *, force: bool) -> None:
    if config.out is not None:
        whole.refuse_existing(out, force=force, marker="scores.json")
        whole.refuse_same(out, _inputs(config))
    whole.check_writable(out)


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
        faults.append(Fault("instruction", "is for --model", "predictions are scored as they are"))
    if config.baseline is not None and config.predictions is None:
        faults.append(Fault("baseline", "is compared with --predictions"))
    if faults:
        raise ConfigError(faults)


def _asked(config: EvalConfig, findings: Findings, *, offline: bool, tell: Tell) -> GivenModel | None:
    """The model and the data that it is asked, found to belong together; None without a model, or where one is not
    sound."""
    if config.model is None:
        return None
    data = findings.of("data", _data, config)
    if data is None:
        # What the model would be asked may not be known.
        findings.of("model", open_weights, config.model, base=config.base, offline=offline, tell=tell)
        return None
    return findings.of("model", _given, config, data, offline=offline, tell=tell)


def _data(config: EvalConfig) -> Prepared | Path:
    """A prepared folder, or a file of records."""
    assert config.data is not None
    if not is_prepared(config.data):
        if not config.data.exists():
            raise UsageError(f"no such data: {config.data}", hint="a prepared folder or a file of records")
        return config.data
    prepared = open_prepared(config.data)
    if not prepared.manifest.splits.get(config.split):
        raise DataError(f"the {config.split} split is empty", where=str(config.data), hint="name another: --split")
    return prepared


def _given(config: EvalConfig, data: Prepared | Path, *, offline: bool, tell: Tell) -> GivenModel:
    """The model, found to belong to the data."""
    assert config.model is not None
    if isinstance(data, Path):
        given = find_model(
            config.model, task=config.task, instruction=config.instruction, base=config.base, offline=offline, tell=tell
        )
        if given.task.labelled and given.family != "encoder" and not (config.labels or given.labels):
            return given  # chooses among the labels of the records, which are read later
        return given.choosing(config.labels, calibrate=config.calibrate)
    prepared_for = data.manifest.task
    given = find_model(
        config.model,
        task=config.task,
        otherwise=prepared_for,
        instruction=config.instruction,
        base=config.base,
        offline=offline,
        tell=tell,
    )
    if given.task.name != prepared_for:
        raise UsageError(f"the model answers {given.task.name}, {config.data} was prepared for {prepared_for}")
    labels = config.labels or (() if given.labels else data.manifest.labels)
    return given.choosing(labels, calibrate=config.calibrate)


def metrics_of(config: EvalConfig, task: Task | None) -> Metrics:
    """The metrics asked for, the task's own where none are. Raises `UsageError` for one that cannot read the answers."""
    asked = config.metric or (task.metrics if task else ())
    if not asked:
        raise UsageError("eval of files needs a metric", hint="--metric bleu; see: llmctl list metrics")
    found = [parse.parse_metric(each) for each in asked]
    wrong = [spec.name for spec, _ in found if spec.reads == "likelihood"] if config.model is None else []
    if wrong:
        raise UsageError(f"{', '.join(wrong)} needs a model: likelihoods are not in a file of predictions")
    if task is not None and (reasons := [why for spec, _ in found if (why := unreadable(spec, task))]):
        raise UsageError("; ".join(reasons), hint=f"metrics of the task: {', '.join(task.metrics)}")
    return found


def _out(config: EvalConfig) -> Path | None:
    """Scores of a run's model are kept in the run, a folder for each time."""
    if config.model is None or not (Path(config.model) / runs.RUN).is_file():
        return None
    folder = Path(config.model) / "evals"
    name = f"{config.split}-{runs.now().replace(':', '').replace('-', '')}"
    numbers = ("", *(f"-{number}" for number in range(2, 10_000)))
    return next(folder / (name + number) for number in numbers if not (folder / (name + number)).exists())


def evaluate(config: EvalConfig, checked: Checked, tell: Tell, *, force: bool = False) -> Result:
    """Score. A gate that is not met is in the result, not an error: the caller ends with 10."""
    started = time.monotonic()
    from llmctl.metrics.scoring import score_answers

    answers, facts = _answers(config, checked, tell)
    scored = score_answers(checked.metrics, answers, config.interval, config.seed)
    scores = tuple(_with_facts(score, checked, facts) for score in scored.scores)
    baseline_scores, comparison = _compare(config, checked, answers)
    gates = tuple(gate.check(scores, baseline_scores) for gate in checked.gates)
    predictions = str(config.predictions) if config.predictions else None
    result = Result(scores, gates, comparison, predictions, 0.0, config.instruction)
    if checked.out is not None:
        result = replace(result, predictions=str(checked.out / "predictions.jsonl"))
        _keep(config, checked, result, answers, scored.rows, force=force)
    result = replace(result, seconds=time.monotonic() - started)
    _reports(config, result)
    return result


def _answers(config: EvalConfig, checked: Checked, tell: Tell) -> tuple[list[Answer], Facts]:
    if config.model is None:
        assert config.predictions is not None
        predictions = pairs.read(config.predictions, "predictions", pairs.PREDICTION_FIELDS)
        return pairs.pair(predictions, _references(config))[: config.limit], {}
    assert checked.given is not None
    return _answers_of_model(config, checked.given, checked.metrics, tell)


def _references(config: EvalConfig) -> list[list[pairs.Line]]:
    return [pairs.read(path, "references", pairs.REFERENCE_FIELDS) for path in config.references]


def _answers_of_model(
    config: EvalConfig, given: GivenModel, metrics: Metrics, tell: Tell
) -> tuple[list[Answer], Facts]:
    """What the model answers to the records, how likely it finds them, or both, as the metrics read.

    A likelihood compares only between models of one tokenizer, window and precision, any score only between models told
    the same where the user chose what. A label that nothing is said of is the one that the model finds likeliest, by its
    head or by the label's text: so both stand side by side, and a calibrated choice by itself.
    """
    from llmctl.engines.spec import Sampling
    from llmctl.workflows.answering import answered, open_asker
    from llmctl.workflows.questions import open_questions

    records = list(islice(_records(config, given.task), config.limit))
    if not records:
        raise DataError("no records to score", where=str(config.data))
    if given.task.labelled and not given.labels:
        # A model without a head for labels chooses among those of the records.
        given = given.choosing(sorted({label for record in records for label in given.task.references(record)}))
    questions = open_questions(given, calibrate=config.calibrate, tell=tell)
    asker = open_asker(given, precision=config.precision, engine=config.engine, questions=questions, tell=tell)
    reads = {spec.reads for spec, _ in metrics}
    answers = [Answer(id=record.id) for record in records]
    if "text" in reads:
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens,
            num_beams=config.num_beams,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        answers = answered(asker, records, sampling)
    told = {} if config.instruction is None else {TOLD: _short_hash(questions.layout.instruction)}
    facts = {"text": told | ({"choice": "calibrated"} if config.calibrate else {})}
    if "likelihood" not in reads:
        return answers, facts
    likely = asker.likelihoods(records, batch_size=config.batch_size, window=config.window)
    answers = [
        replace(answer, logprob=each.logprob, tokens=each.tokens, bytes=each.bytes)
        for answer, each in zip(answers, likely, strict=True)
    ]
    window, stride = asker.questions.window(config.window, None)
    facts["likelihood"] = {
        "tok": _tokenizer_hash(given, asker.questions.layout.tokenizer),
        "window": str(window),
        "stride": str(stride),
        "precision": config.precision,
        **told,
    }
    return answers, facts


def _tokenizer_hash(given: GivenModel, tokenizer: Any) -> str:
    """Of its file; of what transformers makes of the older forms, which have no tokenizer.json."""
    path = given.folder.path / "tokenizer.json"
    if path.is_file():
        return whole.sha256(path)[:8]
    text: str = tokenizer.backend_tokenizer.to_str()
    return _short_hash(text)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _records(config: EvalConfig, task: Task) -> Iterator[Record]:
    assert config.data is not None
    if is_prepared(config.data):
        from llmctl.data.text import read_text

        return read_text(open_prepared(config.data).text(config.split))
    from llmctl.data.read import read_records

    return read_records([str(config.data)], check=task.check, fields_of=task.record_of if task.packed else None)


def _with_facts(score: Score, checked: Checked, facts: Facts) -> Score:
    reads = {name: spec.reads for spec, _ in checked.metrics for name in spec.scores}
    said = facts.get(reads[score.metric], {})
    return replace(score, signature="|".join([score.signature, *(f"{name}:{value}" for name, value in said.items())]))


def _compare(
    config: EvalConfig, checked: Checked, answers: Sequence[Answer]
) -> tuple[tuple[Score, ...] | None, tuple[Mapping[str, Any], ...]]:
    """The baseline's scores and paired tests against them."""
    if config.baseline is None:
        return None, ()
    from llmctl.metrics.paired import paired
    from llmctl.metrics.scoring import measure_both, score_answers

    assert config.predictions is not None
    lines = pairs.like(
        pairs.read(config.baseline, "predictions", pairs.PREDICTION_FIELDS),
        pairs.read(config.predictions, "predictions", pairs.PREDICTION_FIELDS),
    )
    answers_before = pairs.pair(lines, _references(config))[: config.limit]
    before = score_answers(checked.metrics, answers_before, config.interval.replace(resamples=0), config.seed)
    tests: list[Mapping[str, Any]] = []
    for spec, options in checked.metrics:
        metric, rows, rows_before = measure_both(spec.build(options), answers, answers_before)
        resamples = max(config.interval.resamples, 1)
        found = paired(rows, rows_before, metric.score, resamples=resamples, seed=config.seed)
        tests += [{"metric": score, **asdict(each)} for score, each in found.items()]
    return before.scores, tuple(tests)


def _keep(
    config: EvalConfig,
    checked: Checked,
    result: Result,
    answers: Sequence[Answer],
    rows: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """`scores.json` and `predictions.jsonl`, each row with the metrics' additive statistics."""
    assert checked.out is not None
    with whole.whole_folder(checked.out, force=force, marker="scores.json") as folder:
        whole.write_jsonl(
            folder / "predictions.jsonl",
            (
                {
                    "id": answer.id,
                    "prediction": answer.prediction,
                    "references": list(answer.references),
                    **(
                        {"logprob": answer.logprob, "tokens": answer.tokens, "bytes": answer.bytes}
                        if answer.tokens
                        else {}
                    ),
                    "rows": {name: each[number].tolist() for name, each in rows.items()},
                }
                for number, answer in enumerate(answers)
            ),
        )
        whole.write_json(
            folder / "scores.json",
            {
                "model": config.model,
                "data": os.path.abspath(config.data) if config.data else None,
                "split": config.split,
                "at": runs.now(),
                **result.document(),
            },
        )


def _reports(config: EvalConfig, result: Result) -> None:
    from llmctl.metrics import report

    if config.junit is not None:
        whole.write_text(config.junit, report.junit(result.scores, result.gates))
    if config.markdown is not None:
        whole.write_text(config.markdown, report.markdown(result.scores, result.gates))


def github_lines(result: Result) -> str:
    """GitHub's workflow commands, where the process runs under its actions."""
    from llmctl.metrics import report

    return report.github_annotations(result.scores, result.gates) if os.environ.get("GITHUB_ACTIONS") == "true" else ""
