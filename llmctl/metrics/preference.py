"""Rewards of preference pairs: β log π/π_ref of the preferred answer minus that of the other one, the reward margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import NoOptions, Statistics
from llmctl.types import Answer


class RewardMargin:
    """The mean reward margin in nats. A row is [margin, 1]."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> Self:
        """Nothing depends on the full set."""
        return self

    def measure(self, answer: Answer) -> Statistics:
        return [answer.reward_margin, 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        margin, count = total
        return {"reward_margin": margin / count}

    def signature(self) -> Signature:
        return Signature({"per": "pair"})


class RewardAccuracy(RewardMargin):
    """Fraction of pairs with a reward margin above 0. A row is [correct, 1]."""

    def measure(self, answer: Answer) -> Statistics:
        return [float(answer.reward_margin > 0.0), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        correct, count = total
        return {"reward_accuracy": correct / count}
