"""Generated token ids read as text: after a prompt, up to a stop text, and piece by piece while they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from llmctl.types import Completion

_BROKEN = "\ufffd"
"""What bytes become that are no character, or not yet."""


def continuation(tokenizer: Any, before: int, ids: Sequence[int]) -> str:
    """The text that `ids` add after the token `before`.

    Decoded together with it: decoders of words and of SentencePiece drop the blank before the first token they see,
    and it belongs to the answer where that token is not the first.
    """
    whole = _decode(tokenizer, [before, *ids])
    head = _decode(tokenizer, [before])
    return whole[len(head) :] if whole.startswith(head) else _decode(tokenizer, ids)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def first_stop(text: str, stops: Collection[str]) -> int | None:
    """Where the first stop text begins."""
    return min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=None)


class DecodedAnswer(NamedTuple):
    """A generated row read to its end."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int

    def completion(self, id: str, sample: int) -> Completion:
        return Completion(id, self.text, self.finish_reason, self.tokens, sample)


def read(
    tokenizer: Any, before: int, ids: Sequence[int], *, ends: Collection[int], stops: Collection[str]
) -> DecodedAnswer:
    """A row of generated ids, padding behind it included. `ends`: the ids that end an answer."""
    length = next((number for number, token in enumerate(ids) if token in ends), len(ids))
    text = continuation(tokenizer, before, ids[:length])
    place = first_stop(text, stops)
    if place is not None:
        return DecodedAnswer(text[:place], "stop", _tokens_until_stop(tokenizer, before, ids[:length], stops))
    return DecodedAnswer(text, "stop" if length < len(ids) else "length", length)


def _tokens_until_stop(tokenizer: Any, before: int, ids: Sequence[int], stops: Collection[str]) -> int:
    """The smallest number of tokens whose text holds a stop text: once there, it stays."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if first_stop(continuation(tokenizer, before, ids[:middle]), stops) is None:
            low = middle + 1
        else:
            high = middle
    return low


class StopText(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows whose generated text holds a stop text, wherever tokens cut it.

    transformers' own criterion matches within the vocabulary and is built anew from all of it for each call.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], width: int) -> None:
        """`width`: number of columns before the first generated one."""
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        # A token that shows anything is at least one byte of text, so the end of a row is enough to look at.
        self.reach = max(len(stop.encode("utf-8", "surrogatepass")) for stop in stops) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B, T) -> (B,) bool."""
        start = max(self.width, input_ids.shape[1] - self.reach)
        rows = input_ids[:, start - 1 :].tolist()
        found = [first_stop(continuation(self.tokenizer, row[0], row[1:]), self.stops) is not None for row in rows]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)


class TextStream(BaseStreamer):  # type: ignore[misc]
    """Gives the text of one answer away piece by piece.

    Never half a character, and never what a stop text may yet take back.
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
        place = first_stop(text, self.stops)
        if place is not None:
            text, self._ended = text[:place], True
        self._emit(text if place is not None else settled(text, self.stops))

    def end(self) -> None:
        """Called by `generate`; what is still held back is given by `finish`, which knows the whole answer."""

    def finish(self, text: str) -> None:
        """Give what is left of the whole answer."""
        self._emit(text)

    def _emit(self, text: str) -> None:
        if len(text) > len(self._emitted) and text.startswith(self._emitted):
            self.emit(text[len(self._emitted) :])
            self._emitted = text


def settled(text: str, stops: Collection[str]) -> str:
    """The part of a growing text that can no longer change: no half character, no beginning of a stop text."""
    text = text.rstrip(_BROKEN)
    longest = max((len(stop) for stop in stops), default=1)
    for held in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-held:]) for stop in stops):
            return text[:-held]
    return text
