"""The engine that runs a transformers model in this process.

Letters: B rows of a batch, T tokens of a row, K scored positions kept, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.utils import logging

from llmctl.engines import choosing, text
from llmctl.engines.batching import sorted_batches
from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, PromptTooLong, UsageError
from llmctl.types import Completion, Family, Likelihood, Precision, Request

LOGITS_AT_ONCE: Final = 64_000_000
"""Maximum number of logits in one scoring pass, B · K · V: 256 MB in fp32."""
ROWS_AT_ONCE: Final = 256
"""Scored positions per softmax call."""

_KEPT: Final = (
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Token settings read from the model's own generation config. Everything else in it is ignored, so that a model's
sampling defaults never turn a greedy answer into a sampled one."""


class Job(NamedTuple):
    """A row to generate: the index of the request and the index of the sample."""

    number: int
    request: Request
    sample: int
    limit: int
    """Maximum number of new tokens: as requested, or what remains of the context."""


@contextlib.contextmanager
def _without_padding_warning() -> Iterator[None]:
    """Silence transformers' warning about unmasked padding: finished rows are padded until the last row finishes."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class TorchEngine:
    """Runs `model`; see `engines.spec.Engine`. An answer does not depend on the batch it was generated in."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        device: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """`layout_context`: longest input sequence, if shorter than the model's own limit. `labels`: an encoder's labels.

        A model that declares no maximum length (recurrent, or with relative positions) has no limit. `device`: where to
        move the model; None leaves it where it is.
        """
        self.model, self.tokenizer, self.family = model.to(device or model.device), tokenizer, family
        self.labels, self.device = labels, str(self.model.device)
        limits = (layout_context, getattr(model.config, "max_position_embeddings", None))
        self.context = min((limit for limit in limits if limit is not None), default=None)
        self.bf16 = precision == "bf16"
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._ends = self._end_tokens()
        pad = tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else min(self._ends, default=0)

    def _end_tokens(self) -> frozenset[int]:
        """The ids that end an answer, from the tokenizer and from the model (a chat model may have several)."""
        vocabulary = getattr(self.model.config.get_text_config(), "vocab_size", None)
        settings = getattr(self.model, "generation_config", None)  # an encoder has none
        own = settings.eos_token_id if settings is not None else None
        found = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return frozenset(each for each in found if each is not None and (vocabulary is None or each < vocabulary))

    # -- generate ---------------------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Yield answers in the order of the requests.

        Raises `UsageError` for settings that cannot be combined, `DataError` if a prompt does not fit the context.
        """
        sampling.check()
        if stream is not None and (len(requests) != 1 or sampling.num_samples != 1):
            raise ValueError("streaming requires exactly one request and one sample")
        for request in requests:
            self._check_fits(request)
        if self.family == "encoder":
            return self._labels(requests, sampling.batch_size, stream)
        return self._answers(requests, sampling, stream)

    def room(self, request: Request) -> int | None:
        """Number of tokens that can still be generated within the context; None: no limit."""
        if self.context is None:
            return None
        return self.context - len(request.input_ids) if self.family == "decoder" else self.context

    def _check_fits(self, request: Request) -> None:
        length, context = len(request.input_ids), self.context
        if context is not None and length > context - (self.family == "decoder"):
            raise PromptTooLong(length, context, where=request.id)

    def _answers(
        self, requests: Sequence[Request], sampling: Sampling, stream: Callable[[str], None] | None
    ) -> Iterator[Completion]:
        rows_each = 1 if sampling.num_beams > 1 else sampling.num_samples
        jobs = [
            Job(request.place if request.place is not None else number, request, sample, min(sampling.max_new_tokens, room) if (room := self.room(request)) is not None
                else sampling.max_new_tokens)
            for number, request in enumerate(requests)
            for sample in range(rows_each)
        ]  # fmt: skip
        for found in sorted_batches(
            jobs,
            sampling.batch_size,
            # Group rows by limit: generation stops for all of them at once, and none overruns its context.
            key=lambda job: (job.limit, len(job.request.input_ids)),
            together=lambda batch, job: batch[0].limit == job.limit,
            run=lambda batch: self._run(batch, sampling, stream),
        ):
            yield from found

    def _run(
        self, batch: Sequence[Job], sampling: Sampling, stream: Callable[[str], None] | None
    ) -> list[list[Completion]]:
        """The completions of each job in a batch."""
        left = self.family == "decoder"
        ids, mask = self._padded([job.request.input_ids for job in batch], left=left)  # (B, T) each
        width = ids.shape[1] if left else 1
        padding = (mask == 0).sum(1).repeat_interleave(sampling.num_beams) if left else None  # (B · beams,)
        draws = [choosing.seed_of(sampling.seed, job.number, job.sample) for job in batch] if sampling.samples else []
        stops = [text.StopText(self.tokenizer, sampling.stop, width)] if sampling.stop else []
        streamer = text.TextStream(self.tokenizer, stream, self._ends, sampling.stop) if stream is not None else None
        with self._computing(), self._without_own_settings(), _without_padding_warning():
            rows: Tensor = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._settings(sampling, batch[0].limit),
                logits_processor=choosing.processors(sampling, padding=padding, draws=draws),
                stopping_criteria=StoppingCriteriaList(stops),
                streamer=streamer if sampling.num_beams == 1 else None,
            )  # (B · samples, width + generated)
        each = len(rows) // len(batch)
        readings = [
            text.read(self.tokenizer, row[width - 1], row[width:], ends=self._ends, stops=sampling.stop)
            for row in rows.tolist()
        ]
        if streamer is not None:
            streamer.finish(readings[0].text)
        return [
            [readings[number * each + k].completion(job.request.id, job.sample + k) for k in range(each)]
            for number, job in enumerate(batch)
        ]

    def _settings(self, sampling: Sampling, limit: int) -> GenerationConfig:
        own = getattr(self.model, "generation_config", GenerationConfig())
        kept = {name: value for name in _KEPT if (value := getattr(own, name, None)) is not None}
        start = getattr(self.model.config, "decoder_start_token_id", None)
        if self.family == "encoder-decoder" and start is not None:
            kept.setdefault("decoder_start_token_id", start)
        if sampling.num_beams > 1:
            kept |= {"length_penalty": float(sampling.length_penalty), "num_return_sequences": sampling.num_samples}
        settings = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,  # `choosing.Draw` adds the randomness to the scores
            num_beams=sampling.num_beams,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self._pad,
            **kept,
        )
        settings.validate(strict=True)
        return settings

    @contextlib.contextmanager
    def _without_own_settings(self) -> Iterator[None]:
        """Hide the model's own generation config, from which transformers would fill in unset options."""
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            self.model.generation_config = own

    def _labels(
        self, requests: Sequence[Request], batch_size: int, stream: Callable[[str], None] | None
    ) -> Iterator[Completion]:
        if not self.labels:
            raise UsageError("the model has no labels", hint="use a model trained for classification")
        for answer in sorted_batches(
            requests, batch_size, key=lambda request: len(request.input_ids), run=self._classify
        ):
            if stream is not None:
                stream(answer.text)
            yield answer

    def _classify(self, batch: Sequence[Request]) -> list[Completion]:
        chosen = self._label_logits(batch).argmax(-1).tolist()
        return [
            Completion(id=request.id, text=self.labels[label], finish_reason="label", tokens=0)
            for request, label in zip(batch, chosen, strict=True)
        ]

    def _label_logits(self, batch: Sequence[Request]) -> Tensor:
        """(B, labels)."""
        ids, mask = self._padded([request.input_ids for request in batch], left=False)  # (B, T) each
        with self._computing():
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits

    # -- score ------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """log p(answer_ids | input_ids) in nats, in the order of the requests; the softmax is computed in fp32.

        Raises `DataError` if a request does not fit the context.
        """
        if self.family == "encoder":
            for request in requests:
                self._check_fits(request)
            return sorted_batches(
                requests, batch_size, key=lambda request: len(request.input_ids), run=self._label_likelihoods
            )
        for request in requests:
            if not request.input_ids:
                raise ValueError(f"request {request.id!r} has an empty prompt")
            length = len(self._fed(request)[0])
            if self.context is not None and max(length, len(request.input_ids)) > self.context:
                raise DataError(
                    f"{length} tokens to score exceed the model's context of {self.context}",
                    where=request.id,
                    hint="score it in windows",
                )
        return sorted_batches(
            requests,
            batch_size,
            key=lambda request: len(request.input_ids) + len(request.answer_ids),
            together=self._logits_fit,
            run=self._likelihoods,
        )

    def _fed(self, request: Request) -> tuple[tuple[int, ...], int]:
        """The decoder's input ids, and the first position that is scored."""
        if self.family == "decoder":
            both = request.input_ids + request.answer_ids
            return both[:-1] if request.answer_ids else both, len(request.input_ids) - 1
        return (self._decoder_start(), *request.answer_ids[:-1]), 0

    def _decoder_start(self) -> int:
        for holder in (self.model.generation_config, self.model.config):
            found: int | None = getattr(holder, "decoder_start_token_id", None)
            if found is not None:
                return found
        raise UsageError(
            "the model does not specify the first decoder token",
            hint="set decoder_start_token_id in config.json",
        )

    def _logits_fit(self, batch: Sequence[Request], request: Request) -> bool:
        vocabulary = getattr(self.model.config.get_text_config(), "vocab_size", 1)
        fed = [self._fed(each) for each in (*batch, request)]
        kept = max(len(ids) for ids, _ in fed) - min(start for _, start in fed)
        return len(fed) * kept * vocabulary <= LOGITS_AT_ONCE

    def _label_likelihoods(self, batch: Sequence[Request]) -> list[Likelihood]:
        scores = self._label_logits(batch).float().log_softmax(-1).tolist()  # (B, labels)
        return [
            Likelihood(request.id, sum(row[label] for label in request.answer_ids), len(request.answer_ids))
            for request, row in zip(batch, scores, strict=True)
        ]

    def _likelihoods(self, batch: Sequence[Request]) -> list[Likelihood]:
        fed = [self._fed(request) for request in batch]
        ids, mask = self._padded([each for each, _ in fed], left=False)  # (B, T) each
        first = min(start for _, start in fed)
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in self._accepts else {}
        if self.family == "decoder":
            if "logits_to_keep" in self._accepts:
                options["logits_to_keep"] = ids.shape[1] - first
            options |= {"input_ids": ids, "attention_mask": mask}
        else:
            sources, source_mask = self._padded([request.input_ids for request in batch], left=False)
            options |= {"input_ids": sources, "attention_mask": source_mask, "decoder_input_ids": ids}
        with self._computing():
            logits = self.model(**options).logits  # (B, K, V), K the last positions of T
            rows, columns, targets = self._scored(batch, [start for _, start in fed])
            columns -= ids.shape[1] - logits.shape[1]
            sums = torch.zeros(len(batch), dtype=torch.float64, device=self.device)
            for begin in range(0, len(rows), ROWS_AT_ONCE):
                part = slice(begin, begin + ROWS_AT_ONCE)
                some = logits[rows[part], columns[part]].float()  # (part, V)
                values = some.gather(1, targets[part, None])[:, 0] - some.logsumexp(1)
                sums.index_add_(0, rows[part], values.double())
        return [
            Likelihood(id=request.id, logprob=value, tokens=len(request.answer_ids))
            for request, value in zip(batch, sums.tolist(), strict=True)
        ]

    def _scored(self, batch: Sequence[Request], starts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Row, position and target of every scored token in a batch, each one-dimensional."""
        found = [
            (row, start + number, target)
            for row, (request, start) in enumerate(zip(batch, starts, strict=True))
            for number, target in enumerate(request.answer_ids)
        ]
        rows, columns, targets = torch.tensor(found, dtype=torch.long, device=self.device).reshape(-1, 3).unbind(1)
        return rows, columns.clone(), targets

    # -- both -------------------------------------------------------------------------------------------------

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Padded ids and attention mask, (B, T) each."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            span = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[number, span] = torch.tensor(row, dtype=torch.long)
            mask[number, span] = 1
        return ids.to(self.device), mask.to(self.device)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Disable gradients and dropout and set the requested precision; restore the model's mode afterwards."""
        was_training = self.model.training
        self.model.eval()
        # bf16 weights need no autocast.
        cast = self.bf16 and self.model.dtype == torch.float32
        try:
            with torch.inference_mode(), torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=cast):
                yield
        finally:
            self.model.train(was_training)
