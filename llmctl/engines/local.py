"""The engine that runs a transformers model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmctl.engines import scoring
from llmctl.engines.choosing import Constraints
from llmctl.engines.continuous import ContinuousScheduler
from llmctl.engines.decoding import decoding_for
from llmctl.engines.labels import LabelSession
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.plain import PlainScheduler
from llmctl.engines.spec import Engine, EngineEvent, EngineSession, Job, Sampling
from llmctl.errors import UsageError
from llmctl.store.border import running
from llmctl.types import AnswerToken, Family, Likelihood, Precision, Request


class TorchEngine(Engine):
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
        **settings: Any,
    ) -> None:
        """`layout_context`: longest input, if shorter than the model's own limit. `labels`: an encoder's labels.

        A model that declares no maximum length (recurrent, or with relative positions) has no limit. `device`: where to
        move the model; None leaves it where it is. `settings`: those of other engines.
        """
        self.loaded = LoadedModel(
            model, tokenizer, family, layout_context=layout_context, device=device, precision=precision
        )
        self.model, self.tokenizer, self.family = self.loaded.model, tokenizer, family
        self.labels, self.context = labels, self.loaded.context

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        super().check(request, sampling, logprobs=logprobs)
        if self.family == "encoder" and not self.labels:
            raise UsageError("the model has no labels", hint="use a model trained for classification")
        scoring.check_fits(self.loaded, request)

    def session(self, *, rows: int = 16) -> EngineSession:
        if self.family == "encoder":
            return LabelSession(self, self.loaded, self.labels, rows)
        return TorchSession(self, rows)

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """log p(answer_ids | input_ids) in nats, in the order of the requests; the softmax is computed in fp32.

        Raises `DataError` if a request does not fit the context.
        """
        return scoring.score(self.loaded, requests, batch_size)

    def token_logprobs(self, request: Request, top: int) -> list[AnswerToken]:
        return scoring.token_logprobs(self.loaded, request, top)


class TorchSession(EngineSession):
    """Continuous batching where the model and the settings of a request allow it, else transformers' `generate`."""

    def __init__(self, engine: TorchEngine, rows: int) -> None:
        super().__init__(engine)
        loaded = engine.loaded
        self._healing, self._plain = loaded.healing, PlainScheduler(loaded, rows)
        constraints = Constraints(getattr(loaded.model, "generation_config", None))
        with running(loaded.model):
            decoding = decoding_for(loaded) if constraints.known else None
        self._continuous = ContinuousScheduler(loaded, decoding, constraints, rows) if decoding is not None else None

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        submitted = self._healing.jobs(submitted)
        if self._continuous is None:
            return self._plain.advance(submitted, cancelled)
        beams = [job for job in submitted if job.sampling.num_beams > 1]
        others = [job for job in submitted if job.sampling.num_beams == 1]
        return [*self._continuous.advance(others, cancelled), *self._plain.advance(beams, cancelled)]

    def close(self) -> None:
        super().close()
        self._plain.close()
        if self._continuous is not None:
            self._continuous.close()
