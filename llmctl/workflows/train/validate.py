"""Score the validation split by the metric that selects the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from llmctl.data.text import read_text
from llmctl.metrics.scoring import score_answers
from llmctl.metrics.spec import IntervalSpec
from llmctl.models import adapters
from llmctl.types import Answer, Precision
from llmctl.workflows.train.assemble import Parts
from llmctl.workflows.train.checks import TrainPlan

ROOM_TO_STOP: Final = 8
"""Tokens that an answer may always have."""


def generated_score(parts: Parts, plan: TrainPlan) -> float:
    """The chosen score, of answers generated for the first records of the validation split."""
    config = plan.config
    from llmctl.engines.spec import TORCH, Sampling
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor, predict

    precision: Precision = "bf16" if adapters.is_cast_to_bf16(parts.model) else "fp32"
    engine = TORCH.build(
        model=parts.model, tokenizer=parts.tokenizer, family=plan.family, labels=parts.labels, precision=precision
    )
    records = list(islice(read_text(plan.prepared.text("validation")), config.best_by_limit))
    references = (text for record in records for text in plan.task.references(record))
    # A model that has not yet learned to stop may generate 1.5 times the tokens of the longest reference.
    limit = ROOM_TO_STOP + 3 * max((len(parts.layout.encode(text)) for text in references), default=0) // 2
    predictor = Predictor(RequestBuilder(plan.task, parts.layout, labels=parts.labels, hearing=parts.hearing), engine)
    was_training = parts.model.training
    parts.model.eval()
    answers = predict(predictor, records, Sampling(max_new_tokens=limit, batch_size=config.batch_size))
    parts.model.train(was_training)
    return _score(plan, answers)


def likelihood_score(parts: Parts, plan: TrainPlan, loss: float, tokens: int) -> float:
    """The chosen score of the whole validation split, from `loss` in nats per token. Likelihood metrics are additive,
    so one answer that sums all others has the same score."""
    return _score(plan, [Answer("validation", logprob=-loss * tokens, tokens=tokens, bytes=parts.validation_bytes)])


def _score(plan: TrainPlan, answers: Sequence[Answer]) -> float:
    assert plan.best_by is not None
    metric = (plan.best_by.spec, plan.best_by.options)
    scored = score_answers([metric], answers, IntervalSpec(resamples=0), 0)
    return next(score.value for score in scored.scores if score.metric == plan.best_score)
