"""Decoding of generated token ids: after a prompt, up to a stop text, and incrementally for streaming."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from llmctl.store.border import border
from llmctl.types import Completion

_BROKEN = "\ufffd"
"""The replacement for bytes that do not (yet) form a character."""


def continuation(tokenizer: Any, before: int, ids: Sequence[int]) -> str:
    """The text that `ids` add after the token `before`.

    The two are decoded together: word-level and SentencePiece decoders drop the space before the first token, but here
    that space belongs to the answer.
    """
    full = _decode(tokenizer, [before, *ids])
    head = _decode(tokenizer, [before])
    return full[len(head) :] if full.startswith(head) else _decode(tokenizer, ids)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    with border("the tokenizer cannot decode an answer", tokenizer.name_or_path, silent=True):
        text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def first_stop(text: str, stops: Collection[str]) -> int | None:
    """The position of the first stop text; None if there is none."""
    return min((position for position in (text.find(stop) for stop in stops) if position >= 0), default=None)


class DecodedAnswer(NamedTuple):
    """A generated row, decoded up to its end."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int

    def completion(self, id: str, sample: int) -> Completion:
        return Completion(id, self.text, self.finish_reason, self.tokens, sample)


def read(
    tokenizer: Any, before: int, ids: Sequence[int], *, ends: Collection[int], stops: Collection[str]
) -> DecodedAnswer:
    """Decode a row of generated ids, which may end in padding. `ends`: the ids that end an answer."""
    length = next((number for number, token in enumerate(ids) if token in ends), len(ids))
    text = continuation(tokenizer, before, ids[:length])
    position = first_stop(text, stops)
    if position is not None:
        return DecodedAnswer(text[:position], "stop", _tokens_until_stop(tokenizer, before, ids[:length], stops))
    return DecodedAnswer(text, "stop" if length < len(ids) else "length", length)


def _tokens_until_stop(tokenizer: Any, before: int, ids: Sequence[int], stops: Collection[str]) -> int:
    """The smallest number of tokens whose text contains a stop text; found by bisection, since more tokens keep it."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if first_stop(continuation(tokenizer, before, ids[:middle]), stops) is None:
            low = middle + 1
        else:
            high = middle
    return low


class StopText(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows whose generated text contains a stop text, wherever the token boundaries fall.

    transformers' own criterion matches within the vocabulary and is rebuilt from all of it for each call.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], width: int) -> None:
        """`width`: number of columns before the first generated one."""
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        # A visible token is at least one byte of text, so the end of a row is enough to check.
        self.reach = max(len(stop.encode("utf-8", "surrogatepass")) for stop in stops) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B, T) -> (B,) bool."""
        start = max(self.width, input_ids.shape[1] - self.reach)
        rows = input_ids[:, start - 1 :].tolist()
        found = [first_stop(continuation(self.tokenizer, row[0], row[1:]), self.stops) is not None for row in rows]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)


class TextStream(BaseStreamer):  # type: ignore[misc]
    """Emits the text of one answer piece by piece.

    Holds back incomplete characters and text that may turn out to be part of a stop text.
    """

    def __init__(
        self, tokenizer: Any, emit: Callable[[str], None], ends: Collection[int], stops: Sequence[str]
    ) -> None:
        self.tokenizer, self.emit, self.ends, self.stops = tokenizer, emit, ends, stops
        self._before: int | None = None
        self._ids: list[int] = []
        self._emitted = ""
        self._ended = False

    def put(self, value: Tensor) -> None:
        """First the prompt (1, T), then each token (1,)."""
        if self._before is None:
            self._before = int(value.flatten()[-1])
            return
        token = int(value.flatten()[-1])
        self._ended = self._ended or token in self.ends
        if self._ended:
            return
        self._ids.append(token)
        text = continuation(self.tokenizer, self._before, self._ids)
        position = first_stop(text, self.stops)
        if position is not None:
            text, self._ended = text[:position], True
        self._emit(text if position is not None else settled(text, self.stops))

    def end(self) -> None:
        """Called by `generate`; `finish`, which receives the full answer, emits the text still held back."""

    def finish(self, text: str) -> None:
        """Emit the rest of the full answer."""
        self._emit(text)

    def _emit(self, text: str) -> None:
        if len(text) > len(self._emitted) and text.startswith(self._emitted):
            self.emit(text[len(self._emitted) :])
            self._emitted = text


def settled(text: str, stops: Collection[str]) -> str:
    """The part of a growing text that is final: it ends neither in half a character nor in the start of a stop text."""
    text = text.rstrip(_BROKEN)
    longest = max((len(stop) for stop in stops), default=1)
    for held in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-held:]) for stop in stops):
            return text[:-held]
    return text
