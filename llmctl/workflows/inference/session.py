"""Predict with a model: task, layout and engine together. Shared by `generate`, `eval` and validation in `train`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch

from llmctl.data.cleaning.words import JoinedStream, joined
from llmctl.engines.spec import Engine, Sampling
from llmctl.errors import LlmctlError, UsageError
from llmctl.models import pretrained
from llmctl.models.adapters import with_adapter
from llmctl.settings import AUTO, CONCURRENCY
from llmctl.training.devices import resolve_precision
from llmctl.types import Answer, Completion, EventSink, Precision, Record, Request, null_sink
from llmctl.workflows.inference.engines import engine_for
from llmctl.workflows.inference.model import ModelHandle, find_model
from llmctl.workflows.inference.requests import RequestBuilder, open_request_builder

RECORDS_AT_ONCE: Final = 256
"""Records scored together."""


class Predictor:
    """Sends a task's records to an engine in the format of training, and parses the answers."""

    def __init__(self, request_builder: RequestBuilder, engine: Engine) -> None:
        self.request_builder, self.engine, self.task = request_builder, engine, request_builder.task

    def answers(self, records: Iterable[Record], sampling: Sampling) -> Iterator[Completion]:
        """Answers to records, in their order. Raises `DataError` at the first bad one, before anything is generated."""
        yield from self.complete([self.request_builder.generation_request(record) for record in records], sampling)

    def complete(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Answers to requests, in their order, parsed by the task. `stream`: as in `Engine.generate`."""
        if self.request_builder.labels:
            yield from self._chosen(requests, sampling.batch_size, stream)
            return
        shown = JoinedStream(stream) if stream is not None and self.request_builder.segmented else stream
        for completion in self.engine.generate(requests, sampling, stream=shown):
            yield replace(completion, text=self.read(completion.text))

    def read(self, text: str) -> str:
        """A complete text that the engine generated, as an answer."""
        answer = self.task.read(text)
        return joined(answer) if self.request_builder.segmented else answer

    def references(self, record: Record) -> tuple[str, ...]:
        """Every correct answer, as a person writes it: prepared records may be cut into words."""
        found = self.request_builder.references(record)
        return tuple(map(joined, found)) if self.request_builder.segmented and not self.task.labelled else found

    def each(
        self, requests: Iterable[Request | LlmctlError], sampling: Sampling
    ) -> Iterator[list[Completion] | LlmctlError]:
        """As `complete`, in constant memory; an error in the place of a request is handed on: see `Engine.each`."""
        if not self.request_builder.labels:
            for found in self.engine.each(requests, sampling):
                if isinstance(found, LlmctlError):
                    yield found
                else:
                    yield [replace(each, text=self.read(each.text)) for each in found]
            return
        remaining = iter(requests)
        while part := list(itertools.islice(remaining, RECORDS_AT_ONCE)):
            chosen = self._chosen([each for each in part if isinstance(each, Request)], sampling.batch_size, None)
            for request in part:
                yield request if isinstance(request, LlmctlError) else [next(chosen)]

    def _chosen(
        self, requests: Sequence[Request], batch_size: int, stream: Callable[[str], None] | None
    ) -> Iterator[Completion]:
        """The most likely label of each request, end token included.

        Calibrated: the label with the largest log p(label | text) - log p(label | empty text) (Holtzman et al. 2021,
        arXiv:2104.08315, with the empty text as domain premise).
        """
        labels = self.request_builder.labels
        prior = [0.0] * len(labels)
        if self.request_builder.calibrate:
            empty = self.request_builder.label_requests(self.request_builder.null_prompt())
            prior = [each.logprob for each in self.engine.score(empty, batch_size=batch_size)]
        for start in range(0, len(requests), RECORDS_AT_ONCE):
            part = requests[start : start + RECORDS_AT_ONCE]
            scored = [choice for request in part for choice in self.request_builder.label_requests(request)]
            found = self.engine.score(scored, batch_size=batch_size)
            for request in part:
                each_label = itertools.islice(found, len(labels))
                scores = [each.logprob - own for each, own in zip(each_label, prior, strict=True)]
                text = labels[scores.index(max(scores))]
                if stream is not None:
                    stream(text)
                yield Completion(id=request.id, text=text, finish_reason="label", tokens=0)

    def likelihoods(
        self, records: Iterable[Record], *, batch_size: int = 32, window: int | None = None, stride: int | None = None
    ) -> Iterator[Answer]:
        """Log likelihood of each record in nats, with the number of tokens and UTF-8 bytes scored.

        Scores the tokens in the training loss: in language modelling the whole document and its end token, else the
        answers and their end tokens. Each is scored exactly once, given at least `window - stride` tokens before it (or
        all there are): see `requests.spans`. Defaults of `window` and `stride`: see `RequestBuilder.window`.
        Raises `UsageError` for a window beyond the context, `DataError` for a bad record.
        """
        window, stride = self.request_builder.window(window, stride)
        remaining = iter(records)
        while part := list(itertools.islice(remaining, RECORDS_AT_ONCE)):
            scorings = [self.request_builder.loglikelihood_requests(record, window, stride) for record in part]
            found = self.engine.score(
                [request for each in scorings for request in each.requests], batch_size=batch_size
            )
            for record, scoring in zip(part, scorings, strict=True):
                parts = list(itertools.islice(found, scoring.windows))
                yield Answer(
                    id=record.id,
                    logprob=sum(each.logprob for each in parts),
                    tokens=sum(each.tokens for each in parts),
                    bytes=sum(each.bytes or 0 for each in parts) or scoring.bytes,
                )


def predict(predictor: Predictor, records: Iterable[Record], sampling: Sampling) -> list[Answer]:
    """One answer per record, with the record's references."""
    rows = list(records)
    for record in rows:
        predictor.task.check(record)
    return [
        Answer(id=record.id, prediction=completion.text, references=predictor.references(record))
        for record, completion in zip(rows, predictor.answers(rows, sampling), strict=True)
    ]


def open_predictor(
    model: str | ModelHandle,
    *,
    task: str | None = None,
    precision: Precision | Literal["auto"] = "fp32",
    engine: str = AUTO,
    concurrency: int = CONCURRENCY,
    offline: bool = False,
    request_builder: RequestBuilder | None = None,
    emit: EventSink = null_sink,
) -> Predictor:
    """Open a run, a model folder or `hf:ID` for prediction. `request_builder`: this model's, if it is already open.

    Raises what `find_model` raises and, before the weights are loaded, what `open_request_builder` raises; `UsageError` for
    an instruction that a server would not use.
    """
    handle = find_model(model, task=task, offline=offline) if isinstance(model, str) else model
    request_builder = request_builder or open_request_builder(handle, emit=emit)
    spec = engine_for(handle, engine)
    computed = resolve_precision(precision)
    device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    built = spec.build(
        model=load_model(handle, computed) if spec.needs_weights else handle.server or handle.folder,
        tokenizer=request_builder.layout.tokenizer,
        family=handle.family,
        layout_context=request_builder.layout.context,
        labels=handle.labels,
        device=device,
        precision=computed,
        concurrency=concurrency,
    )
    if handle.instruction is not None and handle.task.name in built.tasks:
        raise UsageError(
            f"instruction has no effect: {handle.reference} lays out records of {handle.task.name} as its model was trained",
            hint="leave it out, or name the model's folder instead of the server",
        )
    return Predictor(request_builder, built)


def load_model(handle: ModelHandle, precision: Precision) -> Any:
    """The model in the precision of the computation: casting its weights once is faster than at every step.

    No labels are passed: a classifier without its head is rejected instead of getting a random one.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if handle.folder.adapter is not None:
        return with_adapter(handle.folder).to(dtype).requires_grad_(False)
    return pretrained.load(handle.folder.path, handle.family, dtype=dtype).requires_grad_(False)
