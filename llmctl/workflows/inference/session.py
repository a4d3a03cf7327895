"""Asking a model: task, layout and engine bound together. `generate`, `eval` and the scores within `train` share it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch

from llmctl import registry
from llmctl.engines.spec import Engine, EngineSpec, Sampling
from llmctl.models import pretrained
from llmctl.models.adapters import with_adapter
from llmctl.training.devices import resolve_precision
from llmctl.types import Answer, Completion, EventSink, Precision, Record, Request, null_sink
from llmctl.workflows.inference.model import ModelHandle, find_model
from llmctl.workflows.inference.requests import RequestBuilder, open_request_builder

RECORDS_AT_ONCE: Final = 256
"""Records that are scored together."""


class Predictor:
    """Puts a task's records to an engine as training did, and reads the answers back."""

    def __init__(self, request_builder: RequestBuilder, engine: Engine) -> None:
        self.request_builder, self.engine, self.task = request_builder, engine, request_builder.task

    def answers(self, records: Iterable[Record], sampling: Sampling) -> Iterator[Completion]:
        """Answers to records, in their order. Raises `DataError` at the first bad one, before anything is generated."""
        yield from self.complete([self.request_builder.generation_request(record) for record in records], sampling)

    def complete(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Answers to requests, in their order, read as the task reads them. `stream`: as the engine's."""
        if self.request_builder.labels:
            yield from self._chosen(requests, sampling.batch_size, stream)
            return
        for completion in self.engine.generate(requests, sampling, stream=stream):
            yield replace(completion, text=self.task.read(completion.text))

    def _chosen(
        self, requests: Sequence[Request], batch_size: int, stream: Callable[[str], None] | None
    ) -> Iterator[Completion]:
        """The likeliest label of each request, its end included.

        Calibrated, the label is taken whose log p(label | text) - log p(label | empty text) is largest: Holtzman et al.
        2021, arXiv:2104.08315, with the empty text as the domain's premise.
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
        """How likely the model finds what a record teaches: log p in nats, its tokens, its UTF-8 bytes.

        What is scored is what training learns: the whole document and its end in language modelling, else the answers
        and their ends. Every such token is scored exactly once, given at least `window - stride` tokens before it (or
        all there are): see `request_builder.spans`. `window` is the context unless given, `stride` half of it.
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
                parts = list(itertools.islice(found, len(scoring.requests)))
                yield Answer(
                    id=record.id,
                    logprob=sum(each.logprob for each in parts),
                    tokens=sum(each.tokens for each in parts),
                    bytes=scoring.bytes,
                )


def predict(predictor: Predictor, records: Iterable[Record], sampling: Sampling) -> list[Answer]:
    """One answer to each record beside everything that is right for it."""
    rows = list(records)
    for record in rows:
        predictor.task.check(record)
    return [
        Answer(id=record.id, prediction=completion.text, references=predictor.task.references(record))
        for record, completion in zip(rows, predictor.answers(rows, sampling), strict=True)
    ]


def open_predictor(
    model: str | ModelHandle,
    *,
    task: str | None = None,
    precision: Precision | Literal["auto"] = "fp32",
    engine: str = "torch",
    offline: bool = False,
    request_builder: RequestBuilder | None = None,
    emit: EventSink = null_sink,
) -> Predictor:
    """Open a run, a model folder or `hf:ID` to be asked. `request_builder`: those of this model, if they are open already.

    Raises what `find_model` and, before the weights are read, `open_request_builder` do.
    """
    handle = find_model(model, task=task, offline=offline) if isinstance(model, str) else model
    request_builder = request_builder or open_request_builder(handle, emit=emit)
    spec: EngineSpec = registry.load("engines", engine)
    computed = resolve_precision(precision)
    device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    built = spec.build(
        model=_load(handle, computed) if spec.needs_weights else None,
        tokenizer=request_builder.layout.tokenizer,
        family=handle.family,
        layout_context=request_builder.layout.context,
        labels=handle.labels,
        device=device,
        precision=computed,
    )
    return Predictor(request_builder, built)


def _load(handle: ModelHandle, precision: Precision) -> Any:
    """Weights in the precision of the computation: casting them once is faster than at every step.

    No labels are asked for: a classifier whose head is missing is refused, not given a random one.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if handle.folder.adapter is not None:
        return with_adapter(handle.folder).to(dtype)
    return pretrained.load(handle.folder.path, handle.family, dtype=dtype)
