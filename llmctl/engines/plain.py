"""Answers by transformers' own `generate`, a batch at a time: for every model and every setting that it knows.

The rows of a batch begin together, and the batch ends with its last row. `continuous.py` is faster where it applies.

Letters: B rows of a batch, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from llmctl.engines import choosing, text
from llmctl.engines.healing import Opened
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.rows import AnswerRow
from llmctl.engines.spec import Answered, EngineEvent, Job, Sampling
from llmctl.types import AnswerToken

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

# Finished rows are padded until the last row finishes, of which transformers warns.
logging.getLogger("transformers.modeling_utils").addFilter(
    lambda record: not record.getMessage().startswith("We strongly recommend passing in an `attention_mask`")
)


StartBatch = Callable[[LoadedModel, "Sequence[tuple[Job, int]]"], "PlainBatch"]


class PlainScheduler:
    """Answers one batch after the other; a batch holds jobs of equal settings."""

    def __init__(self, loaded: LoadedModel, rows: int, *, start: StartBatch | None = None) -> None:
        """`start`: starts a batch; default: `PlainBatch`."""
        self._loaded, self._rows, self._start = loaded, rows, start or PlainBatch
        self._waiting: list[tuple[Job, int]] = []
        """Jobs and numbers of samples."""
        self._batch: PlainBatch | None = None

    def advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        """As `EngineSession._advance`."""
        self._waiting += [
            (job, sample)
            for job in submitted
            for sample in range(1 if job.sampling.num_beams > 1 else job.sampling.num_samples)
        ]
        if cancelled:
            self._waiting = [each for each in self._waiting if each[0].ticket not in cancelled]
            if self._batch is not None:
                self._batch.cancel(cancelled)
        if self._batch is None:
            chosen = self._next()
            if not chosen:
                return []
            self._batch = self._start(self._loaded, chosen)
        events = self._batch.step()
        if self._batch.ended:
            self._batch = None
        return events

    def _next(self) -> list[tuple[Job, int]]:
        """The first waiting job and those that can be answered together with it."""
        if not self._waiting:
            return []
        key = _key(self._loaded, self._waiting[0][0])
        chosen = [each for each in self._waiting if _key(self._loaded, each[0]) == key][: self._rows]
        taken = {(job.ticket, sample) for job, sample in chosen}
        self._waiting = [each for each in self._waiting if (each[0].ticket, each[1]) not in taken]
        return chosen

    def close(self) -> None:
        """Drop all rows, and wait for the thread that works on them."""
        self._waiting.clear()
        if self._batch is not None:
            self._batch.close()
            self._batch = None


def _key(loaded: LoadedModel, job: Job) -> tuple[Any, ...]:
    """What the rows of a batch have in common. The limit is part of it, since a row that has ended is padded up to it,
    which must not go beyond the context."""
    beams = job.sampling.num_beams > 1
    free: dict[str, Any] = {} if beams else {"num_samples": 1, "stop": (), "seed": 0}
    return loaded.limit_of(job), replace(job.sampling, batch_size=1, max_new_tokens=1, **free), job.sampling.samples


class PlainBatch:
    """One call of `generate`, on a thread of its own, so that its tokens can be reported as they come."""

    def __init__(self, loaded: LoadedModel, chosen: Sequence[tuple[Job, int]]) -> None:
        self.loaded, self.chosen = loaded, chosen
        self.cancelled: set[int] = set()
        self.events: queue.SimpleQueue[list[EngineEvent] | BaseException | None] = queue.SimpleQueue()
        self.ended = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def step(self) -> list[EngineEvent]:
        """The next events. Raises what the model raises."""
        found = self.events.get()
        if isinstance(found, list):
            return found
        self.ended = True
        self._thread.join()
        if found is not None:
            raise found
        return []

    def cancel(self, tickets: set[int]) -> None:
        """End the rows of these tickets at their next token; a beam search, if nobody waits for any of its rows."""
        self.cancelled |= tickets

    def close(self) -> None:
        self.cancel({job.ticket for job, _ in self.chosen})
        self._thread.join()

    def _work(self) -> None:
        try:
            (self.search if self.chosen[0][0].sampling.num_beams > 1 else self.choose)()
        except BaseException as error:  # raised again by `step`
            self.events.put(error)
        else:
            self.events.put(None)

    def choose(self) -> None:
        """Greedy choice or sampling."""
        loaded, jobs = self.loaded, [job for job, _ in self.chosen]
        ids, mask, width = self._inputs()
        limit = loaded.limit_of(jobs[0])
        before = ids[:, -1].tolist() if loaded.family == "decoder" else [loaded.decoder_start] * len(jobs)
        rows = [
            AnswerRow(job, sample, loaded.tokenizer, before=token, limit=limit, ends=loaded.ends)
            for (job, sample), token in zip(self.chosen, before, strict=True)
        ]
        sampling = replace(jobs[0].sampling, num_samples=2) if jobs[0].sampling.samples else jobs[0].sampling
        draws = [choosing.seed_of(row.job.sampling.seed, row.job.request.place or 0, row.sample) for row in rows]
        padding = (mask == 0).sum(1) if loaded.family == "decoder" else None  # (B,)
        recorder = Recorder([job.logprobs for job in jobs])
        chain = choosing.processors(sampling, padding=padding, draws=draws)
        if any(blanks := [job.request.opening.blanks if job.request.opening else "" for job in jobs]):
            chain.insert(0, Opened(loaded.healing, blanks, width))
        if recorder.wanted:
            chain.insert(0, recorder)
        watch = Watch(rows, recorder, self.cancelled, self.events)
        with loaded.computing():
            loaded.without_own_settings().generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=_settings(loaded, sampling, limit),
                logits_processor=chain,
                stopping_criteria=StoppingCriteriaList([watch]),
            )

    def search(self) -> None:
        """Beam search."""
        loaded, jobs = self.loaded, [job for job, _ in self.chosen]
        sampling = jobs[0].sampling
        ids, mask, width = self._inputs()
        padding = (mask == 0).sum(1).repeat_interleave(sampling.num_beams) if loaded.family == "decoder" else None
        stops = [text.StopText(loaded.tokenizer, sampling.stop, width)] if sampling.stop else []
        tickets = {job.ticket for job in jobs}
        with loaded.computing():
            found: Tensor = loaded.without_own_settings().generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=_settings(loaded, sampling, loaded.limit_of(jobs[0])),
                logits_processor=choosing.processors(sampling, padding=padding, draws=()),
                stopping_criteria=StoppingCriteriaList([*stops, Abandoned(lambda: tickets <= self.cancelled)]),
            )  # (B · samples, width + generated)
        events: list[EngineEvent] = []
        for number, row in enumerate(found.tolist()):
            job, sample = jobs[number // sampling.num_samples], number % sampling.num_samples
            answer = text.read(loaded.tokenizer, row[width - 1], row[width:], ends=loaded.ends, stops=sampling.stop)
            events.append(Answered(job.ticket, answer.completion(job.request.id, sample)))
        self.events.put(events)

    def _inputs(self) -> tuple[Tensor, Tensor, int]:
        """Padded ids and mask, (B, T) each, and the number of columns before the first generated one."""
        left = self.loaded.family == "decoder"
        ids, mask = self.loaded.padded([job.request.input_ids for job, _ in self.chosen], left=left)
        return ids, mask, ids.shape[1] if left else 1


def _settings(loaded: LoadedModel, sampling: Sampling, limit: int) -> GenerationConfig:
    own = getattr(loaded.model, "generation_config", GenerationConfig())
    kept = {name: value for name in _KEPT if (value := getattr(own, name, None)) is not None}
    start = getattr(loaded.model.config, "decoder_start_token_id", None)
    if loaded.family == "encoder-decoder" and start is not None:
        kept.setdefault("decoder_start_token_id", start)
    if sampling.num_beams > 1:
        kept |= {"length_penalty": float(sampling.length_penalty), "num_return_sequences": sampling.num_samples}
    settings = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,  # `choosing.Draw` adds the randomness to the scores
        num_beams=sampling.num_beams,
        bos_token_id=loaded.tokenizer.bos_token_id,
        eos_token_id=sorted(loaded.ends) or None,
        pad_token_id=loaded.pad,
        **kept,
    )
    settings.validate(strict=True)
    return settings


class Recorder(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probabilities of the next token (B, V), as the model gives them, for the rows that want them."""

    def __init__(self, logprobs: Sequence[int | None]) -> None:
        """`logprobs`: as in `Job`, for each row."""
        self._logprobs = logprobs
        self.wanted = any(each is not None for each in logprobs)
        self._values: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._values = scores.float().log_softmax(-1)
        return scores

    def details(self, row: int, token: int) -> AnswerToken | None:
        """The token that was chosen for a row, with its log-probability."""
        number = self._logprobs[row]
        return None if number is None or self._values is None else choosing.details(self._values[row], token, number)


class Abandoned(StoppingCriteria):  # type: ignore[misc]
    """Ends a batch once nobody waits for an answer of it."""

    def __init__(self, abandoned: Callable[[], bool]) -> None:
        self._abandoned = abandoned

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B, T) -> (B,) bool."""
        return torch.full(input_ids.shape[:1], self._abandoned(), dtype=torch.bool, device=input_ids.device)


class Watch(StoppingCriteria):  # type: ignore[misc]
    """Reads each new token, reports it, and ends the rows whose answers have ended."""

    def __init__(
        self,
        rows: Sequence[AnswerRow],
        recorder: Recorder,
        cancelled: set[int],
        report: queue.SimpleQueue[list[EngineEvent] | BaseException | None],
    ) -> None:
        self._rows, self._recorder, self._cancelled, self._report = rows, recorder, cancelled, report

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B, T) -> (B,) bool."""
        events: list[EngineEvent] = []
        for number, (row, token) in enumerate(zip(self._rows, input_ids[:, -1].tolist(), strict=True)):
            if not row.ended and row.job.ticket not in self._cancelled:
                row.add(token, self._recorder.details(number, token))
                events += row.events()
        self._report.put(events)
        over = [row.ended or row.job.ticket in self._cancelled for row in self._rows]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)
