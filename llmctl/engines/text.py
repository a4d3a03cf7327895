"""Decoding of generated token ids: after a prompt, up to a stop text, and incrementally for streaming."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria

from llmctl.store.border import border
from llmctl.types import Completion

_BROKEN = "\ufffd"
"""The replacement for bytes that do not (yet) form a character."""


def continuation(tokenizer: Any, before: int | None, ids: Sequence[int]) -> str:
    """The text that `ids` add after the token `before`; None: after nothing.

    The two are decoded together: word-level and SentencePiece decoders drop the space before the first token, but here
    that space belongs to the answer.
    """
    if before is None:
        return _decode(tokenizer, ids)
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


class AnswerText:
    """One answer as its tokens come: its text, and when it ends.

    Only the last tokens are decoded again for each new one, and none if nobody watches: `stops` and `stream` do.
    """

    WINDOW: Final = 32
    """Tokens after which the text before the newest is taken as final."""

    def __init__(
        self,
        tokenizer: Any,
        before: int | None,
        *,
        ends: Collection[int],
        limit: int,
        stops: Sequence[str] = (),
        stream: bool = False,
        opening: str = "",
        own_limit: int | None = None,
    ) -> None:
        """`before`: the token before the answer; None: the answer is a text of its own. `limit`: the most tokens.
        `opening`: what the tokens begin with that belongs to the prompt; see `engines.healing`. `own_limit`: the most tokens
        that do not spell it."""
        self.tokenizer, self.before, self.ends, self.limit = tokenizer, before, ends, limit
        self.stops, self._watched = stops, stream or bool(stops)
        self._own_limit = limit if own_limit is None else own_limit
        self.opening, self.spelling = opening, 0
        """What the tokens begin with, and the number of tokens that spell it and nothing else."""
        self.unspelt = opening
        """What those tokens leave of it: the next token begins with it."""
        self.ids: list[int] = []
        self.finish_reason: Literal["stop", "length"] | None = None
        self.text = ""
        """The whole text; known once the answer has ended."""
        self._start = 0
        """The first token of the window."""
        self._final = self._seen = self._shown = ""
        """The text before the window, all text so far, and what `fresh` has returned of it."""

    def add(self, token: int) -> None:
        """Take the next token; sets `finish_reason` if the answer ends with it."""
        if token in self.ends:
            self.finish("stop")
            return
        self.ids.append(token)
        if self.opening and self.spelling == len(self.ids) - 1:
            spelt = continuation(self.tokenizer, self.before, self.ids)
            if len(spelt) <= len(self.opening):
                self.spelling, self.unspelt = len(self.ids), self.opening[len(spelt) :]
        if self._watched:
            window = self.ids[self._start :]
            text = continuation(self.tokenizer, self.ids[self._start - 1] if self._start else self.before, window)
            self._seen = self._final + (text if self._start else self._after_opening(text))
            if first_stop(self._seen, self.stops) is not None:
                self.finish("stop")
                return
            if len(window) >= self.WINDOW and not text.endswith(_BROKEN):
                self._final, self._start = self._seen, len(self.ids)
        if len(self.ids) >= self.limit or len(self.ids) - self.spelling >= self._own_limit:
            self.finish("length")

    def _after_opening(self, text: str) -> str:
        return text.removeprefix(self.opening) if text.startswith(self.opening) else ""

    def finish(self, reason: Literal["stop", "length"] = "stop") -> None:
        """End the answer here."""
        self.finish_reason = reason
        self.text = self._after_opening(continuation(self.tokenizer, self.before, self.ids))
        self.text = self.text[: first_stop(self.text, self.stops)]

    def fresh(self) -> str:
        """The text that is certain and was not returned before."""
        shown = settled(self._seen, self.stops) if self.finish_reason is None else self.text
        if not shown.startswith(self._shown):
            return ""
        piece, self._shown = shown[len(self._shown) :], shown
        return piece


def settled(text: str, stops: Collection[str]) -> str:
    """The part of a growing text that is final: it ends neither in half a character nor in the start of a stop text."""
    text = text.rstrip(_BROKEN)
    longest = max((len(stop) for stop in stops), default=1)
    for held in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-held:]) for stop in stops):
            return text[:-held]
    return text
