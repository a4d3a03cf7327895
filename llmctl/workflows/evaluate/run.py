"""`eval`: scores of a model on data, or of predictions against references; gates."""

from __future__ import annotations

import functools
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl.compatibility import references_audio
from llmctl.data.reading import predictions as pairs
from llmctl.errors import DataError
from llmctl.gates import GateResult, Number, of_scores
from llmctl.store import atomic, runs
from llmctl.store.models import content_hash
from llmctl.store.prepared import is_prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import Adapting, Answer, Event, EventSink, Record, Score
from llmctl.workflows.evaluate import reports, rewards
from llmctl.workflows.evaluate.checks import EvalPlan, preflight
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.inference.asked import asked
from llmctl.workflows.inference.facts import likelihood_facts, short_hash
from llmctl.workflows.inference.model import ModelHandle

if TYPE_CHECKING:
    from llmctl.metrics.scoring import Built, Facts

__all__ = ["EvalResult", "evaluate", "preflight"]

INSTRUCTION_FACT: Final = "instruction"
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


def evaluate(plan: EvalPlan, emit: EventSink, *, force: bool = False) -> EvalResult:
    """Score. A gate that is not met is part of the result, not an error: the caller exits with 10."""
    started = time.monotonic()
    config = plan.config
    from llmctl.metrics.scoring import Built, fitting_script, score_built

    before: list[Answer] | None = None
    facts: Facts = {}
    if plan.handle is None:
        answers, before = _answers_of_files(plan)
    else:
        answers, facts = _answers_of_pairs(plan, emit) if plan.reference else _answers_of_model(plan, emit)
        if config.baseline is not None and plan.recorded is None:
            before = _baseline_of(config.baseline, answers)
    chosen = config.metric or config.require
    metrics = [Built.of(*each) for each in (plan.metrics if chosen else fitting_script(plan.metrics, answers))]
    scored = score_built(metrics, answers, config.interval, config.seed, facts)
    scores = scored.scores
    for warning in scored.warnings:
        emit(Event("warning", {"text": warning}))
    numbers = of_scores(scores)
    numbers_before, comparison = plan.recorded, _recorded_comparison(numbers, plan.recorded or ())
    if before is not None:
        baseline, comparison = _compare(config, metrics, answers, before)
        numbers_before = tuple(of_scores(baseline))
    gates = tuple(gate.check(numbers, numbers_before) for gate in config.require)
    predictions = str(config.predictions) if config.predictions else None
    result = EvalResult(scores, gates, comparison, predictions, 0.0, config.instruction)
    if plan.out is not None:
        result = replace(result, predictions=str(plan.out / "predictions.jsonl"))
        _keep(plan, result, answers, scored.rows, force=force)
    result = replace(result, seconds=time.monotonic() - started)
    reports.write(config, result)
    return result


def _answers_of_files(plan: EvalPlan) -> tuple[list[Answer], list[Answer] | None]:
    """Predictions with their references; the same for the baseline, in the same order, or None without one."""
    config = plan.config
    assert config.predictions is not None
    predictions = pairs.read(config.predictions, "predictions", pairs.PREDICTION_FIELDS)
    references = [pairs.read(path, "references", pairs.REFERENCE_FIELDS) for path in config.references]
    answers = pairs.pair(predictions, references)[: config.limit]
    if config.baseline is None or plan.recorded is not None:
        return answers, None
    before = pairs.like(pairs.read(config.baseline, "predictions", pairs.PREDICTION_FIELDS), predictions)
    return answers, pairs.pair(before, references)[: config.limit]


def _baseline_of(path: Path, answers: Sequence[Answer]) -> list[Answer]:
    """A baseline's predictions with the references of the model's answers."""
    lines = [pairs.Line(answer.id, (answer.prediction,), f"answer {n}") for n, answer in enumerate(answers, 1)]
    before = pairs.like(pairs.read(path, "predictions", pairs.PREDICTION_FIELDS), lines)
    return [
        replace(answer, prediction=line.texts[0] if line.texts else "")
        for answer, line in zip(answers, before, strict=True)
    ]


def _recorded_comparison(numbers: Sequence[Number], recorded: Sequence[Number]) -> tuple[Mapping[str, Any], ...]:
    """Differences from the recorded scores with the same signature. Without their rows there is no p."""
    found = []
    for number in numbers:
        for before in recorded:
            if (before.name, before.signature) == (number.name, number.signature):
                found.append(
                    {
                        "metric": number.name,
                        "baseline": before.value,
                        "value": number.value,
                        "difference": number.value - before.value,
                        "p_bootstrap": None,
                        "p_randomization": None,
                        "why": "a file of scores has no rows to test; give the baseline's predictions.jsonl",
                    }
                )
    return tuple(found)


def _answers_of_pairs(plan: EvalPlan, emit: EventSink) -> tuple[list[Answer], Facts]:
    """The reward margin of each preference pair, and facts for signatures."""
    from llmctl.workflows.inference.session import open_predictor

    config, task, handle, reference = plan.config, plan.task, plan.handle, plan.reference
    assert task is not None
    assert handle is not None
    assert reference is not None
    records = list(islice(_records(config, task, emit), config.limit))
    if not records:
        raise DataError("no records to score", where=str(config.data))
    model, other = (
        open_predictor(each, precision=config.precision, engine=config.engine, emit=emit)
        for each in (handle, reference)
    )
    beta = rewards.beta_of(handle)
    answers = rewards.reward_margins(task, records, model, other, beta=beta, batch_size=config.batch_size)
    facts = {
        "beta": f"{beta:g}",
        "reference": content_hash(reference.folder.architecture)[:8],
        "precision": config.precision,
    }
    return list(answers), {"preference": facts}


def _answers_of_model(plan: EvalPlan, emit: EventSink) -> tuple[list[Answer], Facts]:
    """The model's answers to the records, their likelihoods, or both, as the metrics need; and facts for signatures.

    Likelihoods compare only with the same tokenizer, window and precision; scores only with the same instruction, where
    the user chose one. A classification head and the likelihoods of label texts choose comparably, so a signature
    does not distinguish them; it does mark a calibrated choice.
    """
    from llmctl.engines.spec import Sampling
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor, predict

    config, handle, metrics = plan.config, plan.handle, plan.metrics
    assert handle is not None
    records = list(islice(_records(config, handle.task, emit), config.limit))
    if not records:
        raise DataError("no records to score", where=str(config.data))
    if handle.task.labelled and not handle.labels:
        # A model without a classification head chooses from the labels of the records.
        handle = handle.choosing(sorted({label for record in records for label in handle.task.references(record)}))
    _warn_unseen_labels(handle, records, emit)
    request_builder = open_request_builder(handle, calibrate=config.calibrate, emit=emit)
    predictor = open_predictor(
        handle,
        precision=config.precision,
        engine=config.engine,
        concurrency=config.concurrency,
        request_builder=request_builder,
        emit=emit,
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
        {} if config.instruction is None else {INSTRUCTION_FACT: short_hash(request_builder.layout.instruction)}
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
    computed = predictor.engine.facts or likelihood_facts(
        handle.folder,
        predictor.request_builder.layout.tokenizer,
        window=window,
        stride=stride,
        precision=config.precision,
    )
    facts["likelihood"] = {**computed, **instruction_fact}
    return answers, facts


def _warn_unseen_labels(handle: ModelHandle, records: Sequence[Record], emit: EventSink) -> None:
    """Warn of labels that the model cannot answer: their records always count as wrong."""
    if not handle.task.labelled:
        return
    known = {label.strip() for label in handle.labels}
    labels = [label.strip() for record in records for label in handle.task.references(record)]
    unseen = Counter(label for label in labels if label not in known)
    if unseen:
        named = ", ".join(f"{label!r} ({count:,})" for label, count in unseen.most_common(5))
        more = f" and {len(unseen) - 5:,} more" if len(unseen) > 5 else ""
        text = (
            f"{unseen.total():,} of {len(records):,} records have a label that the model never had, so they count as "
            f"wrong: {named}{more}; the model's labels: {', '.join(map(repr, handle.labels[:10]))}"
        )
        emit(Event("warning", {"text": text}))


def _records(config: EvalConfig, task: Task, emit: EventSink) -> Iterator[Record]:
    """The records of the data. A text without any character is no record: there is nothing to predict."""
    empty = 0
    for record in _all_records(config, task):
        if task.packed and not str(record.fields.get("text", "x")).strip():
            empty += 1
            continue
        yield record
    if empty:
        emit(Event("warning", {"text": f"{empty:,} empty text{'s'[: empty != 1]} left out: nothing to score"}))


def _all_records(config: EvalConfig, task: Task) -> Iterator[Record]:
    assert config.data is not None
    if is_prepared(config.data):
        from llmctl.data.storing.text import read_text

        return read_text(open_prepared(config.data).text(config.split))
    from llmctl.data.reading.read import read_records

    fields_of = task.record_of if task.packed else None
    return read_records(
        [str(config.data)],
        check=task.check,
        adapt=functools.partial(_adapt, task),
        open_audio=references_audio(task),
        fields_of=fields_of,
        expected=[column.name for column in task.columns],
    )


def _adapt(task: Task, row: Record, adapting: Adapting) -> Record:
    """A row as the task reads it; it asks what it asks of `generate`. A text to be scored is no question."""
    record = task.adapt(row, adapting)
    if task.packed and "text" in record.fields:
        return record
    question = asked(record, task)
    return replace(question, fields={**record.fields, **question.fields})


def _compare(
    config: EvalConfig, metrics: Sequence[Built], answers: Sequence[Answer], before: Sequence[Answer]
) -> tuple[tuple[Score, ...], tuple[Mapping[str, Any], ...]]:
    """The baseline's scores and paired tests against them."""
    from llmctl.metrics.paired import paired
    from llmctl.metrics.scoring import ROWS_FOR_INTERVAL, measure_both, score_built

    scored = score_built(metrics, before, config.interval.replace(resamples=0), config.seed)
    tests: list[Mapping[str, Any]] = []
    for each in metrics:
        fitted, rows, rows_before = measure_both(each.metric, answers, before)
        resamples = max(config.interval.resamples, 1)
        found = paired(rows, rows_before, fitted.score, resamples=resamples, seed=config.seed)
        for score, test in found.items():
            if len(answers) < ROWS_FOR_INTERVAL:
                test = replace(test, p_bootstrap=math.nan, p_randomization=math.nan)
            tests.append({"metric": score, **asdict(test)})
    return scored.scores, tuple(tests)


def _place(data: Path | None) -> str | None:
    """The absolute path of the data, or the name of a built-in data set."""
    return None if data is None else os.path.abspath(data) if data.exists() else str(data)


def _keep(
    plan: EvalPlan,
    result: EvalResult,
    answers: Sequence[Answer],
    rows: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """Write `scores.json`, and `predictions.jsonl` with the metrics' additive statistics in each row."""
    config = plan.config
    assert plan.out is not None
    with atomic.atomic_folder(plan.out, force=force, marker="scores.json") as folder:
        atomic.write_jsonl(
            folder / "predictions.jsonl",
            (
                {
                    "id": answer.id,
                    "prediction": answer.prediction,
                    "references": list(answer.references),
                    **({"reward_margin": answer.reward_margin} if plan.reference else {}),
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
                "data": _place(config.data),
                "split": config.split,
                "at": runs.now(),
                **result.document(),
            },
        )
