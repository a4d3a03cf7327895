"""`generate`: answer one prompt, or every row of a file."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, GateError
from llmctl.store import atomic
from llmctl.tasks.spec import Task
from llmctl.types import Completion, Event, EventSink, Fitted, Record
from llmctl.workflows.generate import subtitles
from llmctl.workflows.generate.checks import SRT, GeneratePlan
from llmctl.workflows.generate.output import check_same_rows, open_rows
from llmctl.workflows.generate.prompts import PromptRow, input_rows, row_id, with_system
from llmctl.workflows.generate.spec import GenerateConfig

if TYPE_CHECKING:
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """The answers in the order of the rows."""

    completions: tuple[dict[str, Any], ...]
    seconds: float
    alone: bool
    """There is one prompt, from the command line, and one answer."""
    continues: bool
    """An answer continues its prompt (language modelling)."""
    streamed: bool
    timestamps: bool = False
    explained: str | None = None
    """The attention plot."""

    def document(self) -> dict[str, Any]:
        """The fields of the JSON document."""
        tokens = sum(each["tokens"] for each in self.completions)
        return {
            "completions": list(self.completions),
            "tokens_per_second": round(tokens / self.seconds, 1) if self.seconds > 0 else 0.0,
            "records_per_second": round(len(self.completions) / self.seconds, 1) if self.seconds > 0 else 0.0,
            "seconds": round(self.seconds, 3),
            **({"explained": self.explained} if self.explained else {}),
        }

    def lines(self) -> Iterator[str]:
        """Plain output, the same on a terminal and in a pipe: for one answer to one `--prompt` its text, after the
        prompt if it continues it; otherwise (several prompts or samples, an input) one JSON row per line."""
        if self.alone:
            [row] = self.completions
            if self.timestamps:
                yield from subtitles.lines(row.get("segments", ()))
                return
            yield row["prompt"] + row["text"] if self.continues else row["text"]
            return
        yield from (json.dumps(row, ensure_ascii=False) for row in self.completions)


def generate(
    config: GenerateConfig,
    plan: GeneratePlan,
    emit: EventSink,
    *,
    resume: bool = False,
    stream: Callable[[str], None] | None = None,
) -> GenerateResult:
    """Answer every row. If there is one answer to one prompt, `stream` gets its pieces as they are generated.

    Without an output file the first bad row raises its `DataError` before anything is generated. With one, every input
    row gets an output row, a bad one `{"id", "error"}`; `GateError` is raised once the file is complete. If no row can be
    read, the first fault is raised. `resume`: keep the rows of an interrupted output file.
    """
    task = plan.model.task
    rows = list(_prompt_rows(config, plan))
    faults = [_fault(row, task) for row in rows]
    if config.output is None or None not in faults:
        _raise_first(faults)
    # These import torch, so faults of rows are reported first.
    from llmctl.workflows.inference.requests import open_request_builder

    subtitled = config.output is not None and config.output.suffix.lower() == SRT
    request_builder = open_request_builder(
        plan.model,
        calibrate=config.calibrate,
        truncate=config.truncate or "refuse",
        timestamps=config.timestamps or subtitled,
        emit=emit,
    )
    requests = _placed([fault or _request(request_builder, row) for row, fault in zip(rows, faults, strict=True)])
    if config.output is None or config.output.suffix.lower() == SRT:
        _raise_first(requests)
    alone = len(plan.prompts) == 1 and config.num_samples == 1
    if not alone or config.output is not None or config.timestamps:
        stream = None
    opened: list[Predictor] = []

    def predictor() -> Predictor:
        if not opened:
            from llmctl.workflows.inference.session import open_predictor

            opened.append(
                open_predictor(
                    plan.model,
                    precision=config.precision,
                    engine=config.engine,
                    request_builder=request_builder,
                    emit=emit,
                )
            )
        return opened[0]

    if any(isinstance(each, Fitted) for each in requests):
        predictor()  # before the prompt is streamed
    if stream is not None and task.packed:
        stream(_prompt_text(task, rows[0]))
    started = time.monotonic()
    if config.output is not None and config.output.suffix.lower() == SRT:
        completions = list(_rows(predictor, task, rows, requests, plan.sampling, emit))
        atomic.write_text(config.output, subtitles.srt(completions[0].get("segments", ())))
    elif config.output is not None:
        completions = _written(config, plan, predictor, rows, requests, emit, resume=resume)
    else:
        completions = list(_rows(predictor, task, rows, requests, plan.sampling, emit, stream))
    seconds = time.monotonic() - started
    if config.explain is not None and isinstance(requests[0], Fitted):
        from llmctl.workflows.generate import attention_plot

        text, ended = completions[0]["text"], completions[0]["finish_reason"] != "length"
        title = f"source, as tokens of {config.model}"
        attention_plot.draw(predictor(), requests[0].request, text, config.explain, emit, ended=ended, title=title)
    return GenerateResult(
        completions=tuple(completions),
        seconds=seconds,
        explained=str(config.explain) if config.explain is not None else None,
        alone=alone,
        continues=task.packed,
        streamed=stream is not None,
        timestamps=config.timestamps,
    )


def _prompt_rows(config: GenerateConfig, plan: GeneratePlan) -> Iterator[PromptRow]:
    rows = plan.prompts if plan.input is None else input_rows(plan.input, plan.model.task)
    for row in rows:
        yield row if config.system is None or isinstance(row, DataError) else with_system(row, config.system)


def _fault(row: PromptRow, task: Task) -> DataError | None:
    """The fault of a row that could not be read, or of a record that lacks a field of the prompt."""
    if isinstance(row, DataError):
        return row
    try:
        task.check(row, task.prompt_columns())
    except DataError as error:
        return error
    return None


def _request(request_builder: RequestBuilder, row: PromptRow) -> Fitted | DataError:
    if isinstance(row, DataError):
        return row
    try:
        return request_builder.fitted(row)
    except DataError as error:
        return error


def _placed(outcomes: Sequence[Fitted | DataError]) -> list[Fitted | DataError]:
    """Number the requests, so that the same random numbers are drawn for one when earlier ones are done already."""
    places = itertools.count()
    return [
        replace(each, request=replace(each.request, place=next(places))) if isinstance(each, Fitted) else each
        for each in outcomes
    ]


def _raise_first(rows: Sequence[object]) -> None:
    for row in rows:
        if isinstance(row, DataError):
            raise row


def _rows(
    predictor: Callable[[], Predictor],
    task: Task,
    rows: Sequence[PromptRow],
    outcomes: Sequence[Fitted | DataError],
    sampling: Sampling,
    emit: EventSink,
    stream: Callable[[str], None] | None = None,
    *,
    before: int = 0,
) -> Iterator[dict[str, Any]]:
    """Output rows in the order of the input, failed ones included. `before`: rows that were answered earlier."""
    requests = [each.request for each in outcomes if isinstance(each, Fitted)]
    completions = predictor().complete(requests, sampling, stream=stream) if requests else iter(())
    tokens, started = 0, time.monotonic()
    for done, (row, fitted) in enumerate(zip(rows, outcomes, strict=True), start=1):
        if isinstance(row, DataError) or isinstance(fitted, DataError):
            error = row if isinstance(row, DataError) else fitted
            yield {"id": row_id(row), "error": str(error)}
        else:
            prompt = _prompt_text(task, row)
            for completion in itertools.islice(completions, sampling.num_samples):
                tokens += completion.tokens
                yield {**_completion_row(completion, prompt, sampling), **fitted.cut}
        if stream is None:
            # A label is chosen without generating tokens.
            name, count = ("tokens_per_second", tokens) if tokens else ("records_per_second", done)
            speed = count / max(time.monotonic() - started, 1e-9)
            emit(
                Event(
                    "progress",
                    {"stage": "generate", "done": before + done, "total": before + len(rows), name: speed},
                )
            )


def _completion_row(completion: Completion, prompt: str, sampling: Sampling) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": completion.id,
        "prompt": prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": completion.tokens,
    }
    if completion.spoken:
        row["segments"] = [part._asdict() for part in completion.spoken]
    return row | {"sample": completion.sample} if sampling.num_samples > 1 else row


def _prompt_text(task: Task, row: PromptRow) -> str:
    """The prompt as text."""
    assert isinstance(row, Record)
    return "\n".join(segment.text for segment in task.prompt(row))


def _written(
    config: GenerateConfig,
    plan: GeneratePlan,
    predictor: Callable[[], Predictor],
    rows: Sequence[PromptRow],
    requests: Sequence[Fitted | DataError],
    emit: EventSink,
    *,
    resume: bool,
) -> list[dict[str, Any]]:
    """Write every row as it is finished; returns the answers among them. Raises `GateError` where rows failed."""
    assert config.output is not None
    samples = plan.sampling.num_samples
    with open_rows(config.output, plan.key, resume=resume, samples=samples, total=len(rows)) as output:
        found = list(output.earlier)
        failed = sum("error" in row for row in found)
        done = failed + (len(found) - failed) // samples
        check_same_rows(found, rows, samples, config.output)
        if found:
            emit(Event("note", {"text": f"{done:,} of {len(rows):,} rows were answered before the interruption"}))
        later = _rows(predictor, plan.model.task, rows[done:], requests[done:], plan.sampling, emit, before=done)
        for row in later:
            output.write(row)
            found.append(row)
    completions = [row for row in found if "error" not in row]
    if failed := len(found) - len(completions):
        error = GateError(
            f"{failed:,} of {len(rows):,} rows failed",
            where=str(config.output),
            hint='these rows have an "error" with the reason',
        )
        error.document = {"completions": completions}
        raise error
    return completions
