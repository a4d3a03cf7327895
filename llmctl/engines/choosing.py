"""Next-token selection from logits: repetition penalty, filtering, and sampling that is independent of the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmctl.engines.spec import Sampling
from llmctl.types import AnswerToken

_SMALLEST: Final = 2.0**-25
"""Half the step between two float32 draws from [0, 1); replaces a draw of zero."""


def processors(sampling: Sampling, *, padding: Tensor | None, draws: Sequence[int]) -> LogitsProcessorList:
    """The processors applied in order to the next-token scores (B, V) before the argmax.

    `padding` (B,): number of padding columns before each row's prompt, excluded from the repetition penalty; None: no
    padding. `draws`: one seed per row, used when sampling.
    """
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty), padding))
    if not sampling.samples:
        return chain
    if sampling.temperature is not None and sampling.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k is not None:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(float(sampling.top_p)))
    if sampling.min_p is not None:
        chain.append(MinPLogitsWarper(float(sampling.min_p)))
    chain.append(Draw(draws))
    return chain


class Draw(LogitsProcessor):  # type: ignore[misc]
    """Add Gumbel noise, so that the argmax is an exact sample from the softmax of the scores.

        argmax_i (s_i - log E_i),  E_i ~ Exponential(1)  is i with probability softmax(s)_i

    (the Gumbel-max trick; Maddison, Tarlow and Minka 2014, arXiv:1411.0030). Each row has its own generator, so that
    the sample for a request does not depend on the batch size or on the other requests in the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T), (B, V) -> (B, V)."""
        noise = torch.empty(scores.shape, dtype=torch.float32)
        for row, rng in zip(noise, self.rngs, strict=True):
            torch.rand(row.shape, generator=rng, out=row)
        exponential = noise.neg_().log1p_().neg_().clamp_min_(_SMALLEST)
        return scores - exponential.log_().to(scores.device)


def seed_of(*key: Any) -> int:
    """A seed for `torch.Generator` that depends only on the key."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def details(logprobs: Tensor, token: int, number: int) -> AnswerToken:
    """A chosen token with its log-probability and those of the `number` most likely ones; `logprobs` (V,)."""
    values, ids = logprobs.topk(min(number, len(logprobs)))
    return AnswerToken(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
