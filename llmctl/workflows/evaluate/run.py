"""`eval`: scores of a model on data, or of predictions against references; gates."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from llmctl.data import predictions as pairs
from llmctl.errors import DataError, GateError
from llmctl.gates import GateResult, of_scores
from llmctl.store import atomic, runs
from llmctl.store.prepared import is_prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import Answer, Event, EventSink, Record, Score
from llmctl.workflows.evaluate.checks import EvalPlan, Metrics, preflight
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.inference.model import ModelHandle

if TYPE_CHECKING:
    from llmctl.metrics.scoring import Built, Facts

__all__ = ["EvalResult", "evaluate", "preflight"]

INSTRUCTION_FACT: Final = "instruction"
UNSEEN_SHOWN: Final = 5
"""Most labels that a warning names."""
"""In a signature: the hash of an instruction that the user chose."""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores, and whether the gates are met."""

    scores: tuple[Score, ...]
    gates: tuple[GateResult, ...]
    comparison: tuple[Mapping[str, Any], ...]
    predictions: str | None
    seconds: float
    instruction: str | None = None
    """The instruction, where the user chose one."""

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


def evaluate(config: EvalConfig, checked: EvalPlan, emit: EventSink, *, force: bool = False) -> EvalResult:
    """Score. A gate that is not met is part of the result, not an error: the caller exits with 10."""
    started = time.monotonic()
    from llmctl.metrics.scoring import Built, score_built

    before: list[Answer] | None = None
    facts: Facts = {}
    if checked.handle is None:
        answers, before = _answers_of_files(config)
    else:
        answers, facts = _answers_of_model(config, checked.handle, checked.metrics, emit)
    metrics = [Built.of(*each) for each in checked.metrics]
    scored = score_built(metrics, answers, config.interval, config.seed, facts)
    scores = scored.scores
    baseline, comparison = (None, ()) if before is None else _compare(config, metrics, answers, before)
    numbers, numbers_before = of_scores(scores), None if baseline is None else of_scores(baseline)
    gates = tuple(gate.check(numbers, numbers_before) for gate in checked.gates)
    predictions = str(config.predictions) if config.predictions else None
    result = EvalResult(scores, gates, comparison, predictions, 0.0, config.instruction)
    if checked.out is not None:
        result = replace(result, predictions=str(checked.out / "predictions.jsonl"))
        _keep(config, checked, result, answers, scored.rows, force=force)
    result = replace(result, seconds=time.monotonic() - started)
    _reports(config, result)
    return result


def _answers_of_files(config: EvalConfig) -> tuple[list[Answer], list[Answer] | None]:
    """Predictions with their references; the same for the baseline, in the same order, or None without one."""
    assert config.predictions is not None
    predictions = pairs.read(config.predictions, "predictions", pairs.PREDICTION_FIELDS)
    references = [pairs.read(path, "references", pairs.REFERENCE_FIELDS) for path in config.references]
    answers = pairs.pair(predictions, references)[: config.limit]
    if config.baseline is None:
        return answers, None
    before = pairs.like(pairs.read(config.baseline, "predictions", pairs.PREDICTION_FIELDS), predictions)
    return answers, pairs.pair(before, references)[: config.limit]


def _answers_of_model(
    config: EvalConfig, handle: ModelHandle, metrics: Metrics, emit: EventSink
) -> tuple[list[Answer], Facts]:
    """The model's answers to the records, their likelihoods, or both, as the metrics need; and facts for signatures.

    Likelihoods compare only with the same tokenizer, window and precision; scores only with the same instruction, where
    the user chose one. A classification head and the likelihoods of label texts choose comparably, so a signature
    does not distinguish them; it does mark a calibrated choice.
    """
    from llmctl.engines.spec import Sampling
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor, predict

    records = list(islice(_records(config, handle.task), config.limit))
    if not records:
        raise DataError("no records to score", where=str(config.data))
    if handle.task.labelled and not handle.labels:
        # A model without a classification head chooses from the labels of the records.
        handle = handle.choosing(sorted({label for record in records for label in handle.task.references(record)}))
    if handle.task.labelled:
        _warn_unseen(records, handle, emit)
    request_builder = open_request_builder(handle, calibrate=config.calibrate, emit=emit)
    predictor = open_predictor(
        handle, precision=config.precision, engine=config.engine, request_builder=request_builder, emit=emit
    )
    output_types = {spec.output_type for spec, _ in metrics}
    answers = [Answer(id=record.id) for record in records]
    if "text" in output_types:
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens,
            num_beams=config.num_beams,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        answers = predict(predictor, records, sampling)
    instruction_fact = (
        {} if config.instruction is None else {INSTRUCTION_FACT: _short_hash(request_builder.layout.instruction)}
    )
    facts = {"text": instruction_fact | ({"choice": "calibrated"} if config.calibrate else {})}
    if "likelihood" not in output_types:
        return answers, facts
    likely = predictor.likelihoods(records, batch_size=config.batch_size, window=config.window)
    answers = [
        replace(answer, logprob=each.logprob, tokens=each.tokens, bytes=each.bytes)
        for answer, each in zip(answers, likely, strict=True)
    ]
    window, stride = predictor.request_builder.window(config.window, None)
    facts["likelihood"] = {
        "tok": _tokenizer_hash(handle, predictor.request_builder.layout.tokenizer),
        "window": str(window),
        "stride": str(stride),
        "precision": config.precision,
        **instruction_fact,
    }
    return answers, facts


def _warn_unseen(records: Sequence[Record], handle: ModelHandle, emit: EventSink) -> None:
    """Warn of labels among which the model cannot choose: its answers to such records are always wrong."""
    labels = [label for record in records for label in handle.task.references(record)]
    unseen = sorted(set(labels) - set(handle.labels))
    if unseen:
        count, names = sum(label in unseen for label in labels), ", ".join(map(repr, unseen[:UNSEEN_SHOWN]))
        more = ", …" if len(unseen) > UNSEEN_SHOWN else ""
        text = f"{count:,} of {len(records):,} records have labels that the model never had: {names}{more}"
        emit(Event("warning", {"text": f"{text}; its labels: {', '.join(map(repr, handle.labels[:UNSEEN_SHOWN]))}"}))


def _tokenizer_hash(handle: ModelHandle, tokenizer: Any) -> str:
    """Hash of tokenizer.json; for older formats without it, of the tokenizer as transformers converts it."""
    path = handle.folder.path / "tokenizer.json"
    if path.is_file():
        return atomic.sha256(path)[:8]
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

    fields_of = task.record_of if task.packed else None
    return read_records([str(config.data)], check=task.check, adapt=task.adapt, fields_of=fields_of)


def _compare(
    config: EvalConfig, metrics: Sequence[Built], answers: Sequence[Answer], before: Sequence[Answer]
) -> tuple[tuple[Score, ...], tuple[Mapping[str, Any], ...]]:
    """The baseline's scores and paired tests against them."""
    from llmctl.metrics.paired import paired
    from llmctl.metrics.scoring import measure_both, score_built

    scored = score_built(metrics, before, config.interval.replace(resamples=0), config.seed)
    tests: list[Mapping[str, Any]] = []
    for each in metrics:
        fitted, rows, rows_before = measure_both(each.metric, answers, before)
        resamples = max(config.interval.resamples, 1)
        found = paired(rows, rows_before, fitted.score, resamples=resamples, seed=config.seed)
        tests += [{"metric": score, **asdict(test)} for score, test in found.items()]
    return scored.scores, tuple(tests)


def _keep(
    config: EvalConfig,
    checked: EvalPlan,
    result: EvalResult,
    answers: Sequence[Answer],
    rows: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """Write `scores.json`, and `predictions.jsonl` with the metrics' additive statistics in each row."""
    assert checked.out is not None
    with atomic.atomic_folder(checked.out, force=force, marker="scores.json") as folder:
        atomic.write_jsonl(
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
        atomic.write_json(
            folder / "scores.json",
            {
                "model": config.model,
                "data": os.path.abspath(config.data) if config.data else None,
                "split": config.split,
                "at": runs.now(),
                **result.document(),
            },
        )


def _reports(config: EvalConfig, result: EvalResult) -> None:
    from llmctl.metrics import report

    if config.junit is not None:
        atomic.write_text(config.junit, report.junit(result.scores, result.gates))
    if config.markdown is not None:
        atomic.write_text(config.markdown, report.markdown(result.scores, result.gates))


def finish(result: EvalResult) -> GateError | None:
    """Write annotations to standard error under GitHub Actions; return the error for gates that are not met, with the
    result's document."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from llmctl.metrics import report

        sys.stderr.write(report.github_annotations(result.scores, result.gates))
    missed = [gate.why for gate in result.gates if not gate.met]
    if not missed:
        return None
    error = GateError("a gate is not met: " + "; ".join(missed))
    error.document = result.document()
    return error
