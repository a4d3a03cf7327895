"""Perplexity and bits per byte: how well a model predicts the text itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import NoOptions, Statistics
from llmctl.types import Answer


class Perplexity:
    """exp(-log p / tokens). A row is [-log p in nats, tokens]. Comparable only for the same tokenizer and window."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> Self:
        """Nothing depends on the full set."""
        return self

    def measure(self, answer: Answer) -> Statistics:
        return [-answer.logprob, float(answer.tokens)]

    def score(self, total: Statistics) -> Mapping[str, float]:
        nats, tokens = total
        if not tokens:
            return {"perplexity": math.nan}
        try:
            return {"perplexity": math.exp(nats / tokens)}
        except OverflowError:
            return {"perplexity": math.inf}

    def signature(self) -> Signature:
        return Signature({"per": "token"})


class BitsPerByte:
    """-log2 p / UTF-8 bytes of the scored text after cleaning. Comparable across tokenizers.

    A row is [-log p in nats, bytes].
    """

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> Self:
        """Nothing depends on the full set."""
        return self

    def measure(self, answer: Answer) -> Statistics:
        return [-answer.logprob, float(answer.bytes)]

    def score(self, total: Statistics) -> Mapping[str, float]:
        nats, count = total
        return {"bits_per_byte": nats / math.log(2) / count if count else math.nan}

    def signature(self) -> Signature:
        return Signature({"per": "byte", "encoding": "utf-8"})
