"""`generate`: answer one prompt, or every row of a file."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, GateError, LlmctlError
from llmctl.store import atomic
from llmctl.tasks.spec import Task
from llmctl.types import Completion, Event, EventSink, Fitted, Record, Request
from llmctl.workflows.generate.checks import SRT, GeneratePlan
from llmctl.workflows.generate.output import check_same, open_rows
from llmctl.workflows.generate.prompts import PromptRow, count_rows, input_rows, row_id, with_system
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.inference import subtitles

if TYPE_CHECKING:
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor

SHOWN: Final = 1_000
"""The JSON document holds the rows of an output file up to so many; a larger file is read where it is."""
UNREADABLE: Final = 1_000
"""Rows read in search of one that can be asked before the model is loaded."""
WITH_ERROR: Final = 'these rows have an "error" with the reason'
EVENT_SECONDS: Final = 0.1
"""Progress is reported at most so often."""


@dataclass(slots=True)
class AnswerCounts:
    """What was done, and how fast. `done` and `failed` count input rows, those of an interrupted command included."""

    total: int | None = None
    done: int = 0
    failed: int = 0
    answers: int = 0
    new: int = 0
    """Answers of this command."""
    tokens: int = 0
    """Their tokens."""
    completions: list[dict[str, Any]] = field(default_factory=list)
    """Output rows; of a file those with answers, and none where there are more than `SHOWN` and a file has them."""


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """The answers in the order of the rows."""

    tally: AnswerCounts
    seconds: float
    alone: bool
    """There is one prompt, from the command line, and one answer."""
    continues: bool
    """An answer continues its prompt (language modelling)."""
    streamed: bool
    printed: bool = False
    """The lines were printed as they came."""
    timestamps: bool = False
    explained: str | None = None
    """The attention plot."""

    def document(self) -> dict[str, Any]:
        """The fields of the JSON document."""
        tally = self.tally
        return {
            "completions": tally.completions,
            "answers": tally.answers,
            "failed": tally.failed,
            "tokens_per_second": round(tally.tokens / self.seconds, 1) if self.seconds > 0 else 0.0,
            "records_per_second": round(tally.new / self.seconds, 1) if self.seconds > 0 else 0.0,
            "seconds": round(self.seconds, 3),
            **({"explained": self.explained} if self.explained else {}),
        }

    def refusal(self) -> GateError | None:
        """The error of rows that are printed with one."""
        if not self.tally.failed:
            return None
        return GateError(f"{self.tally.failed:,} of {self.tally.done:,} rows failed", hint=WITH_ERROR)

    def lines(self) -> Iterator[str]:
        """Plain output, the same on a terminal and in a pipe: for one answer to one `--prompt` its text, after the
        prompt if it continues it; otherwise (several prompts or samples, an input) one JSON row per line."""
        if self.alone:
            [row] = self.tally.completions
            if self.timestamps:
                yield from subtitles.lines(row.get("segments", ()))
                return
            yield row["prompt"] + row["text"] if self.continues else row["text"]
            return
        yield from map(row_line, self.tally.completions)


def generate(
    config: GenerateConfig,
    plan: GeneratePlan,
    emit: EventSink,
    *,
    resume: bool = False,
    stream: Callable[[str], None] | None = None,
    line: Callable[[str], None] | None = None,
) -> GenerateResult:
    """Answer every row. If there is one answer to one prompt, `stream` gets its pieces as they are generated; if there are
    several, and no output file, `line` gets the rows as soon as they and those before them are there.

    Without an output file the first bad row raises its `DataError` before anything is generated, and a single prompt what
    keeps it from being answered. With one, rows are read,
    answered and written one after the other, in memory that does not depend on their number; every input row gets an
    output row, a bad one `{"id", "error"}`, and `GateError` is raised once the file is complete. If no row can be read,
    the first fault is raised. `resume`: keep the rows of an interrupted output file.
    """
    answering = Answering(config, plan, emit)
    task, alone = plan.model.task, len(plan.prompts) == 1 and config.num_samples == 1
    streamed = stream is not None and alone and config.output is None and not config.timestamps
    line = line if not alone and config.output is None else None
    if answering.written:
        seconds = _write(answering, resume=resume)
    else:
        rows = list(answering.rows())
        _raise_first(_fault(row, task) for row in rows)  # before torch is imported
        pairs = [(row, answering.outcome(row)) for row in rows]
        _raise_first(outcome for _, outcome in pairs)
        predictor = answering.predictor()  # before the prompt is streamed
        if stream is not None and streamed and task.packed:
            stream(_prompt_text(task, rows[0]))
        started, answering.tally.total = time.monotonic(), len(rows)
        if streamed:
            [(row, fitted)] = pairs
            assert isinstance(fitted, Fitted)
            found = list(predictor.complete([fitted.request], plan.sampling, stream=stream))
            answering.output_rows(row, fitted, found)
        else:
            for answered in answering.answers(pairs):
                if line is not None:
                    for each in answered:
                        line(row_line(each))
        if config.output is not None:
            atomic.write_text(config.output, subtitles.srt(answering.tally.completions[0].get("segments", ())))
        seconds = time.monotonic() - started
    if config.explain is not None and answering.first is not None:
        from llmctl.workflows.generate import attention_plot

        answer = answering.tally.completions[0]
        text, ended = answer["text"], answer["finish_reason"] != "length"
        title = f"source, as tokens of {config.model}"
        attention_plot.draw(
            answering.predictor(), answering.first, text, config.explain, emit, ended=ended, title=title
        )
    return GenerateResult(
        answering.tally,
        seconds=seconds,
        explained=str(config.explain) if config.explain is not None else None,
        alone=alone,
        continues=task.packed,
        streamed=streamed,
        printed=line is not None,
        timestamps=config.timestamps,
    )


def row_line(row: Mapping[str, Any]) -> str:
    """An output row as a line."""
    return json.dumps(row, ensure_ascii=False)


def _write(answering: Answering, *, resume: bool) -> float:
    """Answer rows into the output file; the seconds it took. Raises `GateError` where rows failed."""
    config, plan, tally = answering.config, answering.plan, answering.tally
    assert config.output is not None
    rows = answering.rows()
    begin = list(itertools.islice(rows, 1))
    while (fault := _fault(begin[-1], plan.model.task)) is not None and len(begin) < UNREADABLE:
        following = next(rows, None)
        if following is None:
            raise _fault(begin[0], plan.model.task) or fault
        begin.append(following)
    rows = itertools.chain(begin, rows)
    tally.total = len(plan.prompts) if plan.input is None else count_rows(plan.input)
    with open_rows(config.output, plan.key, resume=resume, samples=plan.sampling.num_samples) as output:
        for earlier in output.earlier():
            check_same(earlier, next(rows, None), tally.done + 1, config.output)
            answering.count(earlier)
        if tally.done:
            of_all = f" of {tally.total:,}" if tally.total is not None else ""
            text = f"{tally.done:,}{of_all} rows were answered before the interruption"
            answering.emit(Event("note", {"text": text}))
        started = time.monotonic()
        for found in answering.answers((row, answering.outcome(row)) for row in rows):
            for row in found:
                output.write(row)
        seconds = time.monotonic() - started
    if tally.failed:
        error = GateError(
            f"{tally.failed:,} of {tally.done:,} rows failed",
            where=str(config.output),
            hint=WITH_ERROR,
        )
        error.document = {"completions": tally.completions, "answers": tally.answers, "failed": tally.failed}
        raise error
    return seconds


class Answering:
    """Turns rows of the input into rows of the output, and counts them. Opens the model when it is needed."""

    def __init__(self, config: GenerateConfig, plan: GeneratePlan, emit: EventSink) -> None:
        self.config, self.plan, self.emit = config, plan, emit
        self.tally = AnswerCounts()
        self.subtitled = config.output is not None and config.output.suffix.lower() == SRT
        self.written = config.output is not None and not self.subtitled
        """Whether each row is written as it is answered, with an error if it has no answer."""
        self.first: Request | None = None
        """The first request."""
        self._builder: RequestBuilder | None = None
        self._predictor: Predictor | None = None

    def rows(self) -> Iterator[PromptRow]:
        """The rows to answer."""
        plan, system = self.plan, self.config.system
        rows = plan.prompts if plan.input is None else input_rows(plan.input, plan.model.task)
        for row in rows:
            yield row if system is None or isinstance(row, DataError) else with_system(row, system)

    def _request_builder(self) -> RequestBuilder:
        if self._builder is None:
            from llmctl.workflows.inference.requests import open_request_builder

            config = self.config
            self._builder = open_request_builder(
                self.plan.model,
                calibrate=config.calibrate,
                truncate=config.truncate or "refuse",
                timestamps=config.timestamps or self.subtitled,
                emit=self.emit,
            )
        return self._builder

    def outcome(self, row: PromptRow) -> Fitted | DataError:
        """The request for a row, or its fault."""
        if isinstance(row, DataError):
            return row
        try:
            return self._request_builder().fitted(row)
        except DataError as error:
            return error

    def predictor(self) -> Predictor:
        """The opened model."""
        if self._predictor is None:
            from llmctl.workflows.inference.session import open_predictor

            self._predictor = open_predictor(
                self.plan.model,
                precision=self.config.precision,
                engine=self.config.engine,
                concurrency=self.config.concurrency,
                request_builder=self._request_builder(),
                emit=self.emit,
            )
        return self._predictor

    def answers(self, pairs: Iterable[tuple[PromptRow, Fitted | DataError]]) -> Iterator[list[dict[str, Any]]]:
        """The output rows of each input row, in order. The place of a row decides what is drawn for it."""
        held: deque[tuple[PromptRow, Fitted | DataError]] = deque()
        tally, first = self.tally, self.tally.done

        def requests() -> Iterator[Request | LlmctlError]:
            for place, (row, outcome) in enumerate(pairs, start=first):
                held.append((row, outcome))
                yield replace(outcome.request, place=place) if isinstance(outcome, Fitted) else outcome

        asked = requests()
        begin = next(asked, None)
        if begin is None:
            return
        started, reported = time.monotonic(), 0.0
        for found in self.predictor().each(itertools.chain([begin], asked), self.plan.sampling):
            yield self.output_rows(*held.popleft(), found)
            now = time.monotonic()
            if now - reported >= EVENT_SECONDS or tally.done == tally.total:
                reported = now
                # A label is chosen without generating tokens.
                name, count = (
                    ("tokens_per_second", tally.tokens) if tally.tokens else ("records_per_second", tally.done - first)
                )
                fields = {"stage": "generate", "done": tally.done, "total": tally.total}
                self.emit(Event("progress", {**fields, name: count / max(now - started, 1e-9)}))

    def output_rows(
        self, row: PromptRow, outcome: Fitted | DataError, found: Sequence[Completion] | LlmctlError
    ) -> list[dict[str, Any]]:
        """The output rows of an input row."""
        if isinstance(found, LlmctlError) and len(self.plan.prompts) == 1 and not self.written:
            raise found
        if isinstance(found, LlmctlError) or not isinstance(outcome, Fitted):
            rows: list[dict[str, Any]] = [{"id": row_id(row), "error": str(found)}]
        else:
            self.first = self.first or outcome.request
            prompt = _prompt_text(self.plan.model.task, row)
            rows = [{**_completion_row(each, prompt, self.plan.sampling), **outcome.cut} for each in found]
            self.tally.tokens += sum(each.tokens for each in found)
            self.tally.new += len(rows)
        self.count(rows)
        return rows

    def count(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count the output rows of an input row."""
        tally = self.tally
        tally.done += 1
        if "error" in rows[0]:
            tally.failed += 1
            if not self.written:
                tally.completions += rows
            return
        tally.answers += len(rows)
        if self.config.output is None or tally.answers <= SHOWN:
            tally.completions += rows
        else:
            tally.completions.clear()


def _fault(row: PromptRow, task: Task) -> DataError | None:
    """The fault of a row that could not be read, or of a record that lacks a field of the prompt."""
    if isinstance(row, DataError):
        return row
    try:
        task.check(row, task.prompt_columns())
    except DataError as error:
        return error
    return None


def _raise_first(rows: Iterable[object]) -> None:
    """Raise the first fault, once all rows were looked at: reading them may raise another."""
    faults = [row for row in rows if isinstance(row, DataError)]
    if faults:
        raise faults[0]


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
