"""Prompts that end in blanks: tokenizers join a blank with the word after it, so the tokens of such a prompt end as no text of
the training did.

The blanks are taken back from the prompt, and the answer has to begin with them: only tokens that spell them, or begin with
what is left of them, are allowed until they are written. After token healing in guidance and transformers, for blanks alone.

Letters: B rows of a batch, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llmctl.engines.spec import Job
from llmctl.types import BLANKS

KEPT: Final = 256
"""Endings of prompts whose tokens are kept."""


class Healing:
    """The tokens of a tokenizer that begin with blanks."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._allowed: dict[str, frozenset[int]] = {}
        """By what is left of the blanks."""

    def jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, with the blanks at the end of their prompts taken back where they would mislead the model. A beam search
        takes its prompt as it is."""
        return [self._healed(job) for job in jobs]

    def _healed(self, job: Job) -> Job:
        opening = job.request.opening
        if opening is None:
            return job
        if job.sampling.num_beams > 1 or not self._misleads(opening.blanks):
            return replace(job, request=replace(job.request, opening=None))
        longer = replace(job.sampling, max_new_tokens=job.sampling.max_new_tokens + len(opening.blanks))
        return replace(job, request=replace(job.request, input_ids=opening.ids), sampling=longer)

    @functools.cached_property
    def _texts(self) -> dict[int, str]:
        """The text that each token beginning with a blank adds to a word."""
        backend, count = self._tokenizer.backend_tokenizer, len(self._tokenizer)
        word = next((each for each in range(count) if backend.decode([each]).strip().isalnum()), None)
        if word is None:
            return {}
        start = len(backend.decode([word]))
        found = backend.decode_batch([[word, each] for each in range(count)])
        return {number: text[start:] for number, text in enumerate(found) if text[start : start + 1] in tuple(BLANKS)}

    def _misleads(self, blanks: str) -> bool:
        """Whether tokens hold the last of the blanks and more, and tokens can spell the blanks."""
        ends = {blanks[start:] for start in range(len(blanks))}
        longer = any(len(text) > len(end) and text.startswith(end) for text in self._texts.values() for end in ends)
        return longer and bool(self.allowed(blanks))

    def allowed(self, left: str) -> frozenset[int]:
        """The tokens that may be next where `left` is left of the blanks."""
        found = self._allowed.get(left)
        if found is None:
            found = frozenset(
                number
                for number, text in self._texts.items()
                if text.startswith(left) or (left.startswith(text) and self.allowed(left[len(text) :]))
            )
            if len(self._allowed) >= KEPT:
                self._allowed.clear()
            self._allowed[left] = found
        return found

    def mask(self, scores: Tensor, blanks: str, ids: Sequence[int]) -> Tensor:
        """Scores (1, V) of the token after `ids`, without the tokens that are not allowed."""
        for number in ids[: len(blanks)]:
            blanks = blanks[len(self._texts.get(number, blanks)) :]
        if not blanks:
            return scores
        allowed = [each for each in sorted(self.allowed(blanks)) if each < scores.shape[-1]]
        masked = torch.full_like(scores, -torch.inf)
        masked[:, allowed] = scores[:, allowed]
        return masked


class Opened(LogitsProcessor):  # type: ignore[misc]
    """Lets each row begin with the blanks of its prompt."""

    def __init__(self, healing: Healing, blanks: Sequence[str], width: int) -> None:
        """`width`: number of columns before the first generated one."""
        self._healing, self._blanks, self._width = healing, blanks, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T), (B, V) -> (B, V)."""
        ids = input_ids[:, self._width :].tolist()
        rows = zip(scores[:, None], self._blanks, ids, strict=True)
        return torch.cat([self._healing.mask(*row) for row in rows])
