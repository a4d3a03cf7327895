"""Tokens as clients see them: text, bytes and log-probabilities, in the forms of OpenAI's two interfaces."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmctl.data.cleaning.words import JoinedStream
from llmctl.data.tokenizing.alphabet import BYTES
from llmctl.types import AnswerToken

LEAST_LOGPROB: Final = -9999.0
"""In place of minus infinity, which JSON does not have; OpenAI's value for it."""

_BYTE_OF: Final = {character: byte for byte, character in enumerate(BYTES)}
_BYTE_PIECE: Final = re.compile("<0x([0-9A-F]{2})>")
_BROKEN: Final = "\ufffd"


class TokenTexts:
    """The text and the bytes of the tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor = next(iter(tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids[-1:]), None)
        self._alone = self._decoded([])
        self._bytes: dict[int, bytes] = {}

    def _decoded(self, ids: Sequence[int]) -> str:
        anchor = [] if self._anchor is None else [self._anchor]
        text: str = self._tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)
        return text

    def raw(self, token: int, before: str = "") -> bytes:
        """The UTF-8 bytes of a token in the middle of a text, without `before`; possibly a part of a character."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._bytes_of(token)
        return found.removeprefix(before.encode())

    def _bytes_of(self, token: int) -> bytes:
        # Decoders drop the blank before the first token of a text, so another token comes first.
        whole = self._decoded([token])
        text = whole.removeprefix(self._alone)
        if _BROKEN in text:
            piece: str = self._tokenizer.convert_ids_to_tokens(token)
            if each := _BYTE_PIECE.fullmatch(piece):
                return bytes([int(each[1], 16)])
            if all(character in _BYTE_OF for character in piece):
                return bytes(_BYTE_OF[character] for character in piece)
        return text.encode("utf-8", "replace")

    def text(self, token: int, before: str = "") -> str:
        r"""The text of a token; `bytes:\xe5\xba` for a part of a character, as OpenAI writes it."""
        found = self.raw(token, before)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


def chat_logprobs(tokens: Sequence[AnswerToken], texts: TokenTexts) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""

    def entry(token: int, logprob: float | None, before: str) -> dict[str, Any]:
        raw = list(texts.raw(token, before))
        return {"token": texts.text(token, before), "logprob": _number(logprob), "bytes": raw}

    return {
        "content": [
            {
                **entry(each.id, each.logprob, each.before),
                "top_logprobs": [entry(*other, each.before) for other in each.top],
            }
            for each in tokens
        ],
        "refusal": None,
    }


class TextPosition:
    """Where the next token begins in the text that the client sees, in characters."""

    def __init__(self, *, segmented: bool = False) -> None:
        """`segmented`: the client's text is without the blanks that training put between words."""
        self.at = 0
        self._part = b""
        self._seen: Callable[[str], None] = JoinedStream(self._move) if segmented else self._move

    def add(self, raw: bytes) -> None:
        """Move behind a token with these bytes; half a character counts with its other half."""
        self._part += raw
        whole = self._part.decode("utf-8", "ignore")
        self._part = self._part[len(whole.encode()) :]
        self._seen(whole)

    def _move(self, text: str) -> None:
        self.at += len(text)


def completion_logprobs(tokens: Sequence[AnswerToken], texts: TokenTexts, position: TextPosition) -> dict[str, Any]:
    """`choices[].logprobs` of a completion, or of more of it, whose text begins at the position; moves it to the end."""
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for each in tokens:
        top: dict[str, float | None] = {}
        for token, logprob in each.top:
            top.setdefault(texts.text(token, each.before), _number(logprob))
        own = texts.text(each.id, each.before)
        top[own] = _number(each.logprob)
        found["tokens"].append(own)
        found["token_logprobs"].append(_number(each.logprob))
        found["top_logprobs"].append(top if each.logprob is not None else None)
        found["text_offset"].append(position.at)
        position.add(texts.raw(each.id, each.before))
    return found
