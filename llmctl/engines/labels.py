"""Answers of an encoder with a classification head."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.engines import scoring
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, Job, NewText
from llmctl.types import Completion


class LabelSession(EngineSession):
    """The most likely label of each request, by the head of an encoder; a batch at a step."""

    def __init__(self, engine: Engine, loaded: LoadedModel, labels: Sequence[str], rows: int) -> None:
        super().__init__(engine)
        self._loaded, self._labels, self._rows = loaded, labels, rows
        self._waiting: list[Job] = []

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        self._waiting = [each for each in (*self._waiting, *submitted) if each.ticket not in cancelled]
        batch, self._waiting = self._waiting[: self._rows], self._waiting[self._rows :]
        if not batch:
            return []
        logits = scoring.label_logits(self._loaded, [each.request for each in batch])  # (B, labels)
        events: list[EngineEvent] = []
        for job, label in zip(batch, logits.argmax(-1).tolist(), strict=True):
            answer = Completion(job.request.id, self._labels[label], "label", 0)
            events += [NewText(job.ticket, 0, answer.text)] if job.stream else []
            events.append(Answered(job.ticket, answer))
        return events
