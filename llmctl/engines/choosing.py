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

from llmctl.engines.healing import Healing
from llmctl.engines.spec import Job, Sampling
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


class Chooser:
    """Chooses the tokens of one answer, by the settings of its job."""

    def __init__(self, job: Job, sample: int, prompt: Sequence[int], limit: int, healing: Healing) -> None:
        """`prompt`: the tokens before the answer, which a repetition penalty counts. `limit`: the most tokens."""
        sampling = job.sampling
        draws = [seed_of(sampling.seed, job.request.place or 0, sample)] if sampling.samples else []
        self._chain = processors(sampling, padding=None, draws=draws)
        self._logprobs, self.limit = job.logprobs, limit
        self._prompt = list(prompt) if sampling.repetition_penalty != 1.0 else []
        self._healing, self._blanks = healing, job.request.opening.blanks if job.request.opening else ""
        self.plain = not self._chain and job.logprobs is None and not self._blanks
        """The most likely token is chosen and nothing else is asked for."""

    def __call__(self, scores: Tensor, ids: Sequence[int]) -> tuple[int, AnswerToken | None]:
        """The next token after `ids` from scores (1, V), and its log-probability if that is wanted."""
        changed = self._healing.mask(scores, self._blanks, ids) if self._blanks else scores
        if self._chain:
            seen = torch.tensor([[*self._prompt, *ids] if self._prompt else []], dtype=torch.long, device=scores.device)
            changed = self._chain(seen, changed)
        token = int(changed.argmax(-1))
        if self._logprobs is None:
            return token, None
        return token, details(scores[0].log_softmax(-1), token, self._logprobs)


class Constraints:
    """Tokens that a model's generation config forbids or forces, as transformers' processors of these names do."""

    def __init__(self, settings: Any) -> None:
        """`settings`: the model's `GenerationConfig`, or None."""

        def found(name: str) -> list[Any]:
            value = getattr(settings, name, None)
            return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]

        bad = found("bad_words_ids")
        self.known = all(len(each) == 1 for each in bad)
        """Whether they are all of a kind that `__call__` knows; words of several tokens are not."""
        self._never = sorted({each[0] for each in bad} | set(found("suppress_tokens")))
        self._not_first, self._first = found("begin_suppress_tokens"), found("forced_bos_token_id")
        self._last = found("forced_eos_token_id")
        self.apply = bool(self._never or self._not_first or self._first or self._last)

    def __call__(self, scores: Tensor, count: int, limit: int) -> Tensor:
        """Scores (1, V) for the token after `count` ones of at most `limit`."""
        if not self.apply:
            return scores
        scores = scores.clone()
        forced = self._last if self._last and count == limit - 1 else self._first if count == 0 else []
        if forced:
            scores.fill_(-torch.inf)
            scores[:, forced] = 0.0
        never = [*self._never, *(self._not_first if count == 0 else [])]
        never = [each for each in never if 0 <= each < scores.shape[-1]]  # transformers ignores others
        if never:
            scores[:, never] = -torch.inf
        return scores
