"""An engine that repeats the prompt: the real interface with a known answer, for tests and trial runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmctl.engines.rows import AnswerRow
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, Job
from llmctl.types import AnswerToken, Completion, Family, Likelihood, Request


class EchoEngine(Engine):
    """Answers with the text of the prompt, truncated to `max_new_tokens`; an encoder answers with its first label.

    All tokens are equally likely, as are all labels: log p = -tokens · log V.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        """`model` and `settings` are accepted for compatibility with other engines and ignored."""
        self.tokenizer, self.family, self.context, self.labels = tokenizer, family, layout_context, labels
        self.special = frozenset(tokenizer.all_special_ids)
        self.surprise = math.log(len(labels) if family == "encoder" else len(tokenizer))

    def session(self, *, rows: int = 16) -> EchoSession:
        return EchoSession(self, rows)

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        for request in requests:
            yield Likelihood(request.id, -len(request.answer_ids) * self.surprise, len(request.answer_ids))

    def token_logprobs(self, request: Request, top: int) -> list[AnswerToken]:
        return [AnswerToken(token, -self.surprise) for token in request.answer_ids]


class EchoSession(EngineSession):
    """Gives one token of each row at a step; an answer that nobody watches, at once."""

    engine: EchoEngine

    def __init__(self, engine: EchoEngine, rows: int) -> None:
        super().__init__(engine)
        self._rows = rows
        self._waiting: deque[tuple[Job, int]] = deque()
        self._active: list[tuple[AnswerRow, Iterator[int]]] = []

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        answers_each = 1 if self.engine.family == "encoder" else None
        self._waiting.extend(
            (job, sample) for job in submitted for sample in range(answers_each or job.sampling.num_samples)
        )
        if cancelled:
            self._waiting = deque(each for each in self._waiting if each[0].ticket not in cancelled)
            self._active = [each for each in self._active if each[0].job.ticket not in cancelled]
        events: list[EngineEvent] = []
        for row, tokens in self._active:
            token = next(tokens, None)
            row.add(token, self._details(row.job, token))
            events += row.events()
        self._active = [each for each in self._active if not each[0].ended]
        free = self._rows - len(self._active)
        for _ in range(min(free, len(self._waiting))):
            job, sample = self._waiting.popleft()
            if answers_each:
                label = self.engine.labels[0] if self.engine.labels else ""
                events.append(Answered(job.ticket, Completion(job.request.id, label, "label", 0, sample)))
            elif job.stream:
                self._active.append(self._row(job, sample))
            else:
                row, tokens = self._row(job, sample)
                while not row.ended:
                    token = next(tokens, None)
                    row.add(token, self._details(job, token))
                events += row.events()
        return events

    def _row(self, job: Job, sample: int) -> tuple[AnswerRow, Iterator[int]]:
        engine = self.engine
        ids = [token for token in job.request.input_ids if token not in engine.special]
        whole = len(ids) <= job.sampling.max_new_tokens
        limit = len(ids) + 1 if whole else job.sampling.max_new_tokens
        job = replace(job, request=replace(job.request, opening=None))
        return AnswerRow(job, sample, engine.tokenizer, before=None, limit=limit), iter(ids)

    def _details(self, job: Job, token: int | None) -> AnswerToken | None:
        return None if token is None or job.logprobs is None else AnswerToken(token, -self.engine.surprise)
