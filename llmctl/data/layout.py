"""How the segments of a record become the token sequence of a model: the control tokens around plain text.

Text of a user is encoded as text, always: it can spell a control token and never become one. Control tokens are put
in by id, here and nowhere else. A style names an arrangement and is kept in the model folder, so that generating and
scoring ask exactly as training did:

    document   decoder           [bos] text … [eos]
    control    decoder           [bos] source [sep] target [eos]; chat: [bos] ([role] text [eos])…
    template   decoder           the tokenizer's chat template, its text and the user's encoded apart
    plain      decoder           source, newline, target [eos]: given weights that know no control tokens
    pair       encoder-decoder   source [eos] -> target [eos]
    single     encoder           [cls] text [sep]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmctl.errors import IntegrityError, UsageError
from llmctl.types import Family, Role, Segment, Tokens

Style = Literal["document", "control", "template", "plain", "pair", "single"]
Ids = NDArray[np.int64]

_MARK: Final = "\ue000{}\ue001"
"""A private-use placeholder for a message's content while the chat template is rendered."""


class Sample(NamedTuple):
    """One record as the model sees it.

    `input_ids`   (T,) decoder: prompt and answer; encoder-decoder: source; encoder: text
    `learned`     (T,) bool, decoder only: whether the loss is taken on predicting this token
    `target_ids`  (U,) encoder-decoder only
    `label`       encoder only, else -1
    """

    input_ids: Ids
    learned: NDArray[np.bool_]
    target_ids: Ids
    label: int = -1


_NONE: Final[Ids] = np.empty(0, np.int64)


def style_for(family: Family, tokenizer: Any, *, packed: bool) -> Style:
    """The arrangement for a family and a tokenizer. `packed`: documents are learned as they stand."""
    if family == "encoder-decoder":
        return "pair"
    if family == "encoder":
        return "single"
    if packed:
        return "document"
    if tokenizer.chat_template:
        return "template"
    own = tokenizer.backend_tokenizer.token_to_id("<|sep|>") is not None
    return "control" if own else "plain"


class Layout:
    """Arranges segments for one tokenizer, family and style."""

    def __init__(self, tokenizer: Any, family: Family, style: Style, *, context: int | None = None) -> None:
        """`tokenizer`: a fast tokenizer of transformers. `context`: longest sequence, None for no limit."""
        self.tokenizer, self.family, self.style, self.context = tokenizer, family, style, context
        self._backend = tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True

    # -- text to ids ------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Plain text to ids; nothing in it becomes a control token."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def tokens(self, segments: Sequence[Segment]) -> list[Tokens]:
        return [Tokens(segment.role, self.encode(segment.text), segment.learned) for segment in segments]

    # -- what is learned --------------------------------------------------------------------------------------

    def sample(self, parts: Sequence[Tokens], label: int = -1) -> Sample:
        """A record's segments as a training example, cut to the context."""
        if self.family == "encoder":
            ids = self._wrapped(_ids(parts[0]))
            return Sample(ids, np.zeros(len(ids), bool), _NONE, label)
        if self.family == "encoder-decoder":
            source = [part for part in parts if not part.learned]
            target = [part for part in parts if part.learned]
            return Sample(self._ended(_join(source)), _NONE.astype(bool), self._ended(_join(target)))
        pieces = list(self._pieces(parts))
        ids = np.concatenate([piece for piece, _ in pieces])
        learned = np.concatenate([np.full(len(piece), mark) for piece, mark in pieces])
        if self.context is not None and len(ids) > self.context:
            # The answer stands at the end: the head of the prompt goes first.
            ids, learned = ids[-self.context :], learned[-self.context :]
        return Sample(ids, learned, _NONE)

    def fits(self, parts: Sequence[Tokens]) -> bool:
        """Whether `sample` keeps every token."""
        if self.context is None:
            return True
        whole = Layout.__new__(Layout)
        whole.__dict__.update(self.__dict__ | {"context": None})
        sample = whole.sample(parts)
        return max(len(sample.input_ids), len(sample.target_ids)) <= self.context

    # -- what is asked ----------------------------------------------------------------------------------------

    def prompt(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """The ids that a model is given before it answers."""
        parts = self.tokens([Segment(segment.role, segment.text) for segment in segments])
        if self.family == "encoder":
            return tuple(self._wrapped(_ids(parts[0])).tolist())
        if self.family == "encoder-decoder":
            return tuple(self._ended(_join(parts)).tolist())
        if self.style == "document":
            return (*self._opening(), *_join(parts).tolist())
        pieces = [piece for piece, _ in self._pieces(parts, ask=True)]
        return tuple(np.concatenate(pieces).tolist())

    def answer(self, text: str) -> tuple[int, ...]:
        """The ids of an answer whose likelihood is wanted, its end included."""
        return (*self.encode(text), self.eos)

    # -- control tokens ---------------------------------------------------------------------------------------

    @functools.cached_property
    def eos(self) -> int:
        token: int | None = self.tokenizer.eos_token_id
        if token is None:
            token = self.tokenizer.sep_token_id
        if token is None:
            raise IntegrityError("the tokenizer has no token that ends a text", hint="give one with an eos_token")
        return token

    def _opening(self) -> tuple[int, ...]:
        bos: int | None = self.tokenizer.bos_token_id
        return (bos if bos is not None else self.eos,)

    def _id(self, token: str) -> int:
        found: int | None = self._backend.token_to_id(token)
        if found is None:
            raise UsageError(
                f"the tokenizer has no control token {token}", hint="preprocess with a tokenizer trained here"
            )
        return found

    def _wrapped(self, ids: Ids) -> Ids:
        """[cls] text [sep], by the tokenizer's own names for them."""
        first = self.tokenizer.cls_token_id
        first = first if first is not None else self._opening()[0]
        last = self.tokenizer.sep_token_id if self.tokenizer.cls_token_id is not None else self.eos
        room = len(ids) if self.context is None else self.context - 2
        return np.concatenate([[first], ids[:room], [last]]).astype(np.int64)

    def _ended(self, ids: Ids) -> Ids:
        room = len(ids) if self.context is None else self.context - 1
        return np.append(ids[:room], self.eos).astype(np.int64)

    def _pieces(self, parts: Sequence[Tokens], *, ask: bool = False) -> Sequence[tuple[Ids, bool]]:
        """Stretches of ids of a decoder's sequence, each learned or not; `ask` ends where the answer begins."""
        if self.style == "template":
            return self._template_pieces(parts, ask=ask)
        if self.style == "document":
            ids = [_ids(part) for part in parts]
            opening = np.array(self._opening(), np.int64)
            return [(opening, False), *((each, True) for each in ids), (np.array([self.eos]), True)]
        chat = any(part.role in ("system", "user", "assistant") for part in parts)
        pieces: list[tuple[Ids, bool]] = []
        if self.style == "control":
            pieces.append((np.array(self._opening(), np.int64), False))
        for part in parts:
            if chat and self.style == "control":
                pieces.append((np.array([self._id(f"<|{part.role}|>")]), False))
            elif part is not parts[0] and not ask:
                pieces.append((self._separator(), False))
            ends = np.array([self.eos]) if part.learned or chat else _NONE
            pieces.append((np.concatenate([_ids(part), ends]), part.learned))
        if ask:
            pieces.append(
                (
                    np.array([self._id("<|assistant|>")]) if chat and self.style == "control" else self._separator(),
                    False,
                )
            )
        return pieces

    def _separator(self) -> Ids:
        return np.array([self._id("<|sep|>")] if self.style == "control" else self.encode("\n"), np.int64)

    # -- chat templates ---------------------------------------------------------------------------------------

    def _template_pieces(self, parts: Sequence[Tokens], *, ask: bool) -> list[tuple[Ids, bool]]:
        """The chat template rendered around placeholders: what is the template's may be control tokens, what is
        the user's never is."""
        roles = [_chat_role(part.role) for part in parts]
        rendered = render_template(self.tokenizer, tuple(roles), ask)
        pieces: list[tuple[Ids, bool]] = []
        rest = rendered
        for number, part in enumerate(parts):
            before, _, rest = rest.partition(_MARK.format(number))
            pieces.append((self._template_ids(before), False))
            pieces.append((_ids(part), part.learned))
            if part.learned:
                end, rest = self._turn_end(rest)
                pieces.append((end, True))
        pieces.append((self._template_ids(rest), False))
        return [(ids, learned) for ids, learned in pieces if len(ids)]

    def _turn_end(self, rest: str) -> tuple[Ids, str]:
        """The token that ends an assistant's turn in the template is learned with it."""
        end = self.tokenizer.eos_token or ""
        if end and rest.startswith(end):
            return np.array([self.eos]), rest[len(end) :]
        return _NONE, rest

    def _template_ids(self, text: str) -> Ids:
        """Text of the template itself, in which control tokens are meant."""
        if not text:
            return _NONE
        self._backend.encode_special_tokens = False
        try:
            return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.int64)
        finally:
            self._backend.encode_special_tokens = True


def render_template(tokenizer: Any, roles: tuple[str, ...], ask: bool) -> str:
    """The chat template's text with a placeholder in each message's place. Raises `IntegrityError` if it fails."""
    messages: list[Mapping[str, str]] = [
        {"role": role, "content": _MARK.format(number)} for number, role in enumerate(roles)
    ]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is a program of somebody else's: whatever it raises is its fault
        raise IntegrityError(
            f"the chat template of the model fails: {error}", hint="mend chat_template.jinja"
        ) from error
    for number in range(len(roles)):
        if text.count(_MARK.format(number)) != 1:
            raise IntegrityError(
                f"the chat template does not show message {number + 1} once", hint="mend chat_template.jinja"
            )
    return text


def _chat_role(role: Role) -> str:
    return (
        role
        if role in ("system", "user", "assistant")
        else {"target": "assistant", "label": "assistant"}.get(role, "user")
    )


def _ids(part: Tokens) -> Ids:
    return np.asarray(part.ids, np.int64)


def _join(parts: Sequence[Tokens]) -> Ids:
    return np.concatenate([_ids(part) for part in parts]) if parts else _NONE
