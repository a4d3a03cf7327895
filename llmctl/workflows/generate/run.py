"""`generate`: answer one prompt, or every row of a file."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from llmctl import registry
from llmctl.data.sources import STDIN, InputSource, find_sources
from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, ErrorCollector, GateError, UsageError
from llmctl.models.resolve import is_costly
from llmctl.store import atomic
from llmctl.tasks.spec import Task
from llmctl.types import Completion, Event, EventSink, Record, Request, null_sink
from llmctl.workflows.compatibility import models_that_can
from llmctl.workflows.generate.prompts import PromptRow, input_rows, prompt_records
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.inference.model import ModelHandle, find_model

if TYPE_CHECKING:
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor


@dataclass(frozen=True, slots=True)
class GeneratePlan:
    """A configuration that passed all checks. `input` is None where the prompts come from the command line."""

    model: ModelHandle
    sampling: Sampling
    prompts: tuple[Record, ...]
    input: str | None

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        source = f"{len(self.prompts)} prompts" if self.input is None else self.input
        return {
            "model": str(self.model.folder.path),
            "task": self.model.task.name,
            "family": self.model.family,
            "asked": source,
            "chosen": "drawn" if self.sampling.samples else "greedy" if self.sampling.num_beams == 1 else "beam search",
        }


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
            yield row["prompt"] + row["text"] if self.continues else row["text"]
            return
        yield from (json.dumps(row, ensure_ascii=False) for row in self.completions)


def preflight(
    config: GenerateConfig,
    *,
    force: bool,
    offline: bool,
    verify: bool = False,
    stdin_is_tty: bool = True,
    emit: EventSink = null_sink,
) -> GeneratePlan:
    """Check everything that needs no torch. Raises all faults at once: `UsageError`s and what `find_model` raises."""
    collector = ErrorCollector()
    sampling = Sampling(**{each.name: getattr(config, each.name) for each in fields(Sampling)})
    collector.check("", sampling.check)
    collector.check("prompt", _check_prompt, config, stdin_is_tty=stdin_is_tty)
    source = STDIN if not config.prompt and config.input is None else config.input
    sources = collector.check("input", _sources, source)
    look = collector.ok or not is_costly(config.model)
    model = collector.check("model", _model, config, offline=offline, verify=verify, emit=emit) if look else None
    if config.output is not None:
        inputs = [path for each in sources or () for path in each.paths]
        collector.check(
            "output", _check_output, config.output, [*inputs, *([model.folder.path] if model else [])], force
        )
    if config.explain is not None and model is not None:
        collector.check("explain", _check_plot, config, config.explain, model, force=force)
    collector.raise_all()
    assert model is not None
    return GeneratePlan(model, sampling, tuple(prompt_records(config.prompt, model.task)), source)


def _check_prompt(config: GenerateConfig, *, stdin_is_tty: bool) -> None:
    if config.prompt and config.input is not None:
        raise UsageError("give prompts or an input, not both", hint="--prompt TEXT, or --input FILE")
    if not config.prompt and config.input is None and stdin_is_tty:
        raise UsageError(
            "no prompt", hint="--prompt TEXT (an empty one starts from scratch), or --input FILE, or a pipe"
        )


def _model(config: GenerateConfig, *, offline: bool, verify: bool, emit: EventSink) -> ModelHandle:
    model = find_model(
        config.model,
        task=config.task,
        instruction=config.instruction,
        base=config.base,
        offline=offline,
        verify=verify,
        emit=emit,
    )
    model = model.choosing(config.labels, calibrate=config.calibrate)
    if model.task.labelled and config.num_samples > 1:
        raise UsageError(f"{model.task.name} has one answer per prompt", hint="leave --num-samples out")
    return model


def _check_output(output: Path, inputs: Sequence[Path], force: bool) -> None:
    atomic.refuse_same(output, inputs)
    if str(output) == "-":
        raise UsageError("--output takes a file", hint="leave it out: answers go to standard output")
    if output.is_dir():
        raise UsageError(f"the output {output} is a folder", hint="name a .jsonl file")
    atomic.refuse_existing(output, force=force)
    atomic.check_writable(output)


def _sources(source: str | None) -> list[InputSource]:
    """The input files. Raises `UsageError` where one is missing."""
    return [] if source is None else find_sources([source], unknown="text")


PLOT_SUFFIXES: Final = (".svg", ".png")


def _check_plot(config: GenerateConfig, path: Path, model: ModelHandle, *, force: bool) -> None:
    """Raise `UsageError` where there is not exactly one answer of a model with cross-attention."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"--explain writes {' or '.join(PLOT_SUFFIXES)}, not {path.name}", hint="name attention.svg")
    if len(config.prompt) != 1 or config.num_samples != 1:
        once = "give --prompt TEXT once" if len(config.prompt) != 1 else "leave --num-samples out"
        raise UsageError("--explain plots one answer to one prompt", hint=once)
    if model.family != "encoder-decoder":
        raise UsageError(
            f"--explain plots the cross-attention of an encoder-decoder, {config.model} is of the family {model.family}",
            hint=models_that_can(["encoder-decoder"]),
        )
    if not registry.load("engines", config.engine).needs_weights:
        raise UsageError(
            f"the engine {config.engine} has no model whose attention could be plotted", hint="leave engine out"
        )
    if config.output is not None:
        atomic.refuse_same(path, [config.output])
    atomic.refuse_same(path, [model.folder.path])
    atomic.refuse_existing(path, force=force)
    atomic.check_writable(path)


def generate(
    config: GenerateConfig, plan: GeneratePlan, emit: EventSink, *, stream: Callable[[str], None] | None = None
) -> GenerateResult:
    """Answer every row. If there is one answer to one prompt, `stream` gets its pieces as they are generated.

    Without an output file the first bad row raises its `DataError` before anything is generated. With one, every input
    row gets an output row, a bad one `{"id", "error"}`; `GateError` is raised once the file is complete.
    """
    rows: list[PromptRow] = list(plan.prompts) if plan.input is None else list(input_rows(plan.input, plan.model.task))
    if config.output is None:
        _raise_first(rows)
        for row in rows:
            if isinstance(row, Record):
                plan.model.task.check(row, plan.model.task.prompt_columns())
    # These import torch, so faults of rows are reported first.
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor

    request_builder = open_request_builder(plan.model, calibrate=config.calibrate, emit=emit)
    requests = [_request(request_builder, row) for row in rows]
    if config.output is None:
        _raise_first(requests)
    predictor = open_predictor(
        plan.model, precision=config.precision, engine=config.engine, request_builder=request_builder, emit=emit
    )
    alone = len(plan.prompts) == 1 and config.num_samples == 1
    if not alone or config.output is not None:
        stream = None
    if stream is not None and plan.model.task.packed:
        stream(_prompt_text(plan.model.task, rows[0]))
    started = time.monotonic()
    found = _rows(predictor, rows, requests, plan.sampling, emit, stream)
    completions = _written(found, config.output, len(rows)) if config.output is not None else list(found)
    seconds = time.monotonic() - started
    if config.explain is not None and isinstance(requests[0], Request):
        from llmctl.workflows.generate import attention_plot

        text, ended = completions[0]["text"], completions[0]["finish_reason"] != "length"
        title = f"source, as tokens of {config.model}"
        attention_plot.draw(predictor, requests[0], text, config.explain, emit, ended=ended, title=title)
    return GenerateResult(
        completions=tuple(completions),
        seconds=seconds,
        explained=str(config.explain) if config.explain is not None else None,
        alone=alone,
        continues=plan.model.task.packed,
        streamed=stream is not None,
    )


def _request(request_builder: RequestBuilder, row: PromptRow) -> Request | DataError:
    if isinstance(row, DataError):
        return row
    try:
        return request_builder.generation_request(row)
    except DataError as error:
        return error


def _raise_first(rows: Sequence[object]) -> None:
    for row in rows:
        if isinstance(row, DataError):
            raise row


def _rows(
    predictor: Predictor,
    rows: Sequence[PromptRow],
    outcomes: Sequence[Request | DataError],
    sampling: Sampling,
    emit: EventSink,
    stream: Callable[[str], None] | None,
) -> Iterator[dict[str, Any]]:
    """Output rows in the order of the input, failed ones included."""
    requests = [each for each in outcomes if isinstance(each, Request)]
    completions = predictor.complete(requests, sampling, stream=stream)
    tokens, started = 0, time.monotonic()
    for done, (row, request) in enumerate(zip(rows, outcomes, strict=True), start=1):
        if isinstance(row, DataError) or isinstance(request, DataError):
            error = row if isinstance(row, DataError) else request
            yield {"id": row.where if isinstance(row, DataError) else row.id, "error": str(error)}
            continue
        prompt = _prompt_text(predictor.task, row)
        for completion in itertools.islice(completions, sampling.num_samples):
            tokens += completion.tokens
            yield _completion_row(completion, prompt, sampling)
        if stream is None:
            # A label is chosen without generating tokens.
            name, count = ("tokens_per_second", tokens) if tokens else ("records_per_second", done)
            speed = count / max(time.monotonic() - started, 1e-9)
            emit(Event("progress", {"stage": "generate", "done": done, "total": len(rows), name: speed}))


def _completion_row(completion: Completion, prompt: str, sampling: Sampling) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": completion.id,
        "prompt": prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": completion.tokens,
    }
    return row | {"sample": completion.sample} if sampling.num_samples > 1 else row


def _prompt_text(task: Task, row: PromptRow) -> str:
    """The prompt as text."""
    assert isinstance(row, Record)
    return "\n".join(segment.text for segment in task.prompt(row))


def _written(rows: Iterator[dict[str, Any]], output: Path, total: int) -> list[dict[str, Any]]:
    """Write every row atomically; returns the answers among them. Raises `GateError` where rows failed."""
    completions, failed = [], 0
    with atomic.atomic_file(output) as file:
        for row in rows:
            _write(file, row)
            if "error" in row:
                failed += 1
            else:
                completions.append(row)
    if failed:
        error = GateError(
            f"{failed:,} of {total:,} rows failed", where=str(output), hint='these rows have an "error" with the reason'
        )
        error.document = {"completions": completions}
        raise error
    return completions


def _write(file: IO[bytes], row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
