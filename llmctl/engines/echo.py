"""An engine that repeats the prompt: the real interface with a known answer, for tests and trial runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmctl.engines.spec import Sampling
from llmctl.store.border import border
from llmctl.types import Completion, Family, Likelihood, Request


class EchoEngine:
    """Answers with the text of the prompt, truncated to `max_new_tokens`; an encoder answers with its first label.

    All tokens are equally likely, as are all labels: log p = -tokens · log V.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        """`model` and `settings` are accepted for compatibility with other engines and ignored."""
        self.tokenizer, self.family, self.context, self.labels = tokenizer, family, layout_context, labels

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        sampling.check()
        for request in requests:
            for sample in range(sampling.num_samples):
                completion = self._answer(request, sampling, sample)
                if stream is not None:
                    stream(completion.text)
                yield completion

    def _answer(self, request: Request, sampling: Sampling, sample: int) -> Completion:
        if self.family == "encoder":
            return Completion(request.id, self.labels[0] if self.labels else "", "label", 0, sample)
        special = set(self.tokenizer.all_special_ids)
        prompt_ids = [token for token in request.input_ids if token not in special]
        kept = prompt_ids[: sampling.max_new_tokens]
        with border("the tokenizer cannot decode an answer", self.tokenizer.name_or_path, silent=True):
            text = self.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        position = min((position for position in map(text.find, sampling.stop) if position >= 0), default=None)
        ended = position is not None or len(kept) == len(prompt_ids)
        return Completion(request.id, text[:position], "stop" if ended else "length", len(kept), sample)

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        surprise = math.log(len(self.labels) if self.family == "encoder" else len(self.tokenizer))
        for request in requests:
            yield Likelihood(request.id, -len(request.answer_ids) * surprise, len(request.answer_ids))
