"""Score the validation split, by the loss and by the metric that selects the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from llmctl.data.storing.text import read_rows
from llmctl.metrics.scoring import score_answers
from llmctl.metrics.spec import IntervalSpec
from llmctl.models import adapters
from llmctl.training import loop
from llmctl.training.checkpoints import BestCheckpoint
from llmctl.types import Answer, Precision
from llmctl.workflows.train.assemble import Parts
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.learner import Learner

ROOM_TO_STOP: Final = 8
"""Tokens that an answer may always have."""


def scores(learner: Learner) -> dict[str, float] | None:
    """The scores of the validation split, the same in every process; None if it is empty."""
    parts, plan = learner.parts, learner.plan
    if parts.validation is None:
        return None
    loss, tokens, others = loop.validation_loss(learner.strategy, parts.validation, batch_size=plan.config.batch_size)
    found = {"loss": loss, **others}
    if plan.family not in ("encoder", "ctc") and not plan.task.pairs:
        found["perplexity"] = math.exp(min(loss, 700.0))
    if plan.best_by is not None and plan.best_score not in others:
        by_likelihood = plan.best_by.spec.output_type == "likelihood"
        value = _likelihood_score(parts, plan, loss, tokens) if by_likelihood else _generated_score(learner)
        found[plan.best_score] = value
    return found


def is_better(plan: TrainPlan, value: float, best: BestCheckpoint | None) -> bool:
    """Whether an evaluation is the best so far."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    higher = plan.best_by is not None and plan.best_by.spec.higher_is_better
    return value > best.value if higher else value < best.value


def spread(total: int, most: int) -> Sequence[int]:
    """At most `most` of the numbers below `total`, at even distances: files are often sorted, by label or by length."""
    return [each * total // most for each in range(most)] if most < total else range(total)


def _generated_score(learner: Learner) -> float:
    """The chosen score, of answers generated for records of the validation split, which the processes share."""
    strategy = learner.strategy
    with strategy.gathered():
        mine = _answers(learner.parts, learner.plan, strategy.rank, strategy.processes)
    if strategy.alone:
        return _score(learner.plan, mine)
    everyone: list[list[Answer]] = strategy.gather_objects(mine)
    # Record i was answered by process i modulo their number.
    count = sum(map(len, everyone))
    return _score(learner.plan, [everyone[i % len(everyone)][i // len(everyone)] for i in range(count)])


def _answers(parts: Parts, plan: TrainPlan, rank: int, processes: int) -> Sequence[Answer]:
    """Answers to this process's share of the records."""
    config = plan.config
    from llmctl.engines.spec import TORCH, Sampling
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor, predict

    precision: Precision = "bf16" if adapters.is_cast_to_bf16(parts.model) else "fp32"
    chosen = spread(plan.prepared.manifest.splits["validation"], config.best_by_limit)
    records = list(read_rows(plan.prepared.text("validation"), chosen))
    builder = RequestBuilder(plan.task, parts.layout, labels=parts.labels, hearing=parts.hearing)
    references = (text for record in records for text in builder.references(record))
    # A model that has not yet learned to stop may generate 1.5 times the tokens of the longest reference.
    limit = ROOM_TO_STOP + 3 * max((len(parts.layout.encode(text)) for text in references), default=0) // 2
    was_training = parts.model.training
    parts.model.eval()
    engine = TORCH.build(
        model=parts.model, tokenizer=parts.tokenizer, family=plan.family, labels=parts.labels, precision=precision
    )
    predictor = Predictor(builder, engine)
    sampling = Sampling(max_new_tokens=limit, batch_size=config.batch_size)
    answers = predict(predictor, records[rank::processes], sampling)
    parts.model.train(was_training)
    return answers


def _likelihood_score(parts: Parts, plan: TrainPlan, loss: float, tokens: int) -> float:
    """The chosen score of the whole validation split, from `loss` in nats per token. Likelihood metrics are additive,
    so one answer that sums all others has the same score."""
    return _score(plan, [Answer("validation", logprob=-loss * tokens, tokens=tokens, bytes=parts.validation_bytes)])


def _score(plan: TrainPlan, answers: Sequence[Answer]) -> float:
    assert plan.best_by is not None
    metric = (plan.best_by.spec, plan.best_by.options)
    scored = score_answers([metric], answers, IntervalSpec(resamples=0), 0)
    return next(score.value for score in scored.scores if score.metric == plan.best_score)
