"""One answer on its way: its tokens, its text, and the events that report them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from llmctl.engines.spec import Answered, EngineEvent, Job, NewText
from llmctl.engines.text import AnswerText
from llmctl.types import AnswerToken, Completion


class AnswerRow:
    """Sample `sample` of a job, from its first token to its end."""

    def __init__(
        self, job: Job, sample: int, tokenizer: Any, *, before: int | None, limit: int, ends: Collection[int] = ()
    ) -> None:
        """`before`, `limit`, `ends`: as in `AnswerText`."""
        self.job, self.sample = job, sample
        opening = job.request.opening.blanks if job.request.opening else ""
        self.answer = AnswerText(
            tokenizer,
            before,
            ends=ends,
            limit=limit,
            stops=job.sampling.stop,
            stream=job.stream,
            opening=opening,
            own_limit=job.sampling.max_new_tokens - len(opening) if opening else None,  # see `Healing.jobs`
        )
        self._logprobs: list[AnswerToken] = []
        self._sent = 0

    @property
    def ended(self) -> bool:
        return self.answer.finish_reason is not None

    @property
    def own(self) -> list[int]:
        """The tokens of the answer, without those that spell the end of the prompt."""
        return self.answer.ids[self.answer.spelling :]

    def add(self, token: int | None, details: AnswerToken | None = None) -> None:
        """Take the next token; None: there is none, and the answer ends. `details`: with its log-probability."""
        if token is None:
            self.answer.finish()
            return
        before = len(self.own)
        self.answer.add(token)
        if details is not None and len(self.own) > before:
            self._logprobs.append(details if before else details._replace(before=self.answer.unspelt))

    def events(self) -> list[EngineEvent]:
        """What has happened since the last call."""
        events: list[EngineEvent] = []
        ticket, answer = self.job.ticket, self.answer
        if self.job.stream:
            text, ids = answer.fresh(), self.own[self._sent :]
            if text or ids:
                tokens = tuple(self._logprobs[self._sent :]) or tuple(map(AnswerToken, ids))
                events.append(NewText(ticket, self.sample, text, tokens))
                self._sent += len(ids)
        if answer.finish_reason is not None:
            completion = Completion(
                self.job.request.id,
                answer.text,
                answer.finish_reason,
                len(self.own),
                self.sample,
                tuple(self._logprobs),
            )
            events.append(Answered(ticket, completion))
        return events
