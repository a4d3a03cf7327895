"""How a decoder's prompt is formatted: the control tokens, chat template or plain text around its segments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmctl.data.spec import CHAT_ROLES, PromptFormat
from llmctl.data.tokenizing.chat_template import MARK, ChatTemplate
from llmctl.errors import IntegrityError, UsageError
from llmctl.types import Role

Ids = NDArray[np.int64]
SegmentKinds = tuple[tuple[Role, bool], ...]
"""The role of each segment, and whether it is in the loss."""

NO_IDS: Final[Ids] = np.empty(0, np.int64)
CACHED_SEGMENTS: Final = 1 << 16
"""Segments of all conversations whose delimiters are cached, about 16 MB."""
BLANK_LINE: Final = "\n\n"

CHAT_TEMPLATES: Final[Mapping[str, str]] = {
    "control": (
        "{{ bos_token }}"
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token or eos_token }}"
        "{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ message['role'] | capitalize + ':\\n' + message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif %}"
    ),
}
"""llmctl's own conversation formats as chat templates that other tools can render."""


class Delimiters(NamedTuple):
    """The tokens around N segments: `before` each (N), `ends` of each (N, in the loss with it), `after` the last."""

    before: tuple[Ids, ...]
    ends: tuple[Ids, ...]
    after: Ids

    @property
    def length(self) -> int:
        """Total number of delimiter tokens."""
        return sum(map(len, self.before)) + sum(map(len, self.ends)) + len(self.after)


def is_chat(roles: Iterable[Role]) -> bool:
    return any(role in CHAT_ROLES for role in roles)


class PromptFormatter:
    """Finds the delimiters of one tokenizer and prompt format, and caches them."""

    def __init__(
        self, tokenizer: Any, prompt_format: PromptFormat, instruction: str, encode: Callable[[str], list[int]]
    ) -> None:
        """`encode` maps plain text to ids and never produces a control token."""
        self.tokenizer, self.prompt_format, self.instruction = tokenizer, prompt_format, instruction
        self.template = ChatTemplate(tokenizer)
        self._backend, self._encode = tokenizer.backend_tokenizer, encode
        self._cache: dict[tuple[SegmentKinds, bool], Delimiters] = {}
        self._cached_segments = 0

    def delimiters(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        """The delimiters of segments of these kinds; with `add_generation_prompt` up to where the answer begins."""
        if any(role == "template" for role, _ in parts):
            return Delimiters((NO_IDS,) * len(parts), (NO_IDS,) * len(parts), NO_IDS)
        found = self._cache.get((parts, add_generation_prompt))
        if found is None:
            make = {"document": self._document, "control": self._control, "template": self._template}
            found = make.get(self.prompt_format, self._plain)(parts, add_generation_prompt)
            self._keep((parts, add_generation_prompt), found)
        return found

    def _keep(self, key: tuple[SegmentKinds, bool], found: Delimiters) -> None:
        """Cache delimiters; the oldest make room. Clients of a server choose the roles of conversations."""
        self._cache[key] = found
        self._cached_segments += len(key[0])
        while self._cached_segments > CACHED_SEGMENTS:
            oldest = next(iter(self._cache))
            self._cached_segments -= len(oldest[0])
            del self._cache[oldest]

    # -- single tokens ----------------------------------------------------------------------------------------

    @functools.cached_property
    def eos(self) -> int:
        token: int | None = self.tokenizer.eos_token_id
        if token is None:
            token = self.tokenizer.sep_token_id
        if token is None:
            raise IntegrityError("the tokenizer has no end-of-text token", hint="use one with an eos_token")
        return token

    @property
    def opening(self) -> int:
        bos: int | None = self.tokenizer.bos_token_id
        return bos if bos is not None else self.eos

    @functools.cached_property
    def separator(self) -> int:
        """The token between two texts of one source: <|sep|>, else the tokenizer's sep_token, else its eos_token."""
        own: int | None = self._backend.token_to_id("<|sep|>")
        named: int | None = self.tokenizer.sep_token_id
        return own if own is not None else named if named is not None else self.eos

    @functools.cached_property
    def answer_end(self) -> Ids:
        """The tokens that end an answer; they are in the loss."""
        return self._template_end if self.prompt_format == "template" else np.array([self.eos])

    def _id(self, token: str) -> int:
        found: int | None = self._backend.token_to_id(token)
        if found is None:
            raise UsageError(
                f"the tokenizer has no control token {token}", hint="preprocess with a tokenizer trained here"
            )
        return found

    # -- formats ----------------------------------------------------------------------------------------------

    def _document(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        last = len(parts) - 1
        return Delimiters(
            tuple(_ids(*([self.opening] if number == 0 else [])) for number in range(len(parts))),
            tuple(
                _ids(*([self.eos] if number == last and not add_generation_prompt else []))
                for number in range(len(parts))
            ),
            NO_IDS,
        )

    def _control(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        chat = is_chat(role for role, _ in parts)
        before, ends = [], []
        for number, (role, in_loss) in enumerate(parts):
            opening = [self.opening] if number == 0 else []
            mark = [self._id(f"<|{role}|>")] if chat else [self._id("<|sep|>")] if number else []
            before.append(_ids(*opening, *mark))
            ends.append(_ids(*([self.eos] if chat or in_loss else [])))
        after = [self._id("<|assistant|>" if chat else "<|sep|>")] if add_generation_prompt else []
        return Delimiters(tuple(before), tuple(ends), _ids(*after))

    def _plain(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        if is_chat(role for role, _ in parts):
            return self._plain_chat(parts, add_generation_prompt)
        # The instruction comes last, next to the answer: a model without instruction tuning continues from there.
        answer = BLANK_LINE + self.instruction + BLANK_LINE if self.instruction else BLANK_LINE
        before, ends = [], []
        for number, (_, in_loss) in enumerate(parts):
            between = answer if in_loss else BLANK_LINE if number else ""
            before.append(_ids(*([self.opening] if number == 0 else []), *self._encode(between)))
            ends.append(_ids(*([self.eos] if in_loss else [])))
        return Delimiters(tuple(before), tuple(ends), _ids(*(self._encode(answer) if add_generation_prompt else [])))

    def _plain_chat(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        before, ends = [], []
        for number, (role, _) in enumerate(parts):
            heading = self._encode(("" if number == 0 else BLANK_LINE) + f"{role.capitalize()}:\n")
            before.append(_ids(*([self.opening] if number == 0 else []), *heading))
            ends.append(_ids(*([self.eos] if role == "assistant" else [])))
        return Delimiters(
            tuple(before),
            tuple(ends),
            _ids(*(self._encode(f"{BLANK_LINE}Assistant:\n") if add_generation_prompt else [])),
        )

    # -- chat templates ---------------------------------------------------------------------------------------

    def _template(self, parts: SegmentKinds, add_generation_prompt: bool) -> Delimiters:
        """Render the chat template around placeholders, so that its own text can hold control tokens and user text
        cannot. Consecutive source texts form one user message."""
        roles: list[str] = []
        first: list[bool] = []
        for role, in_loss in parts:
            speaker = role if role in CHAT_ROLES else "assistant" if in_loss else "user"
            first.append(not roles or role in CHAT_ROLES or in_loss or roles[-1] != speaker)
            if first[-1]:
                roles.append(speaker)
        rest = self.template.around(tuple(roles), add_generation_prompt)
        instruction_ids = self._encode(self.instruction + BLANK_LINE) if self.instruction else []
        before, ends = [], []
        message = 0
        for number, ((role, in_loss), opens) in enumerate(zip(parts, first, strict=True)):
            if opens:
                shown, _, rest = rest.partition(MARK.format(message))
                message += 1
                instruction = instruction_ids if number == 0 and role not in CHAT_ROLES else []
                before.append(_ids(*self._template_ids(shown), *instruction))
            else:
                before.append(_ids(*self._encode(BLANK_LINE)))
            ended = in_loss and rest.startswith(self.template.end)
            ends.append(self._template_end if ended else NO_IDS)
            rest = rest.removeprefix(self.template.end) if ended else rest
        return Delimiters(tuple(before), tuple(ends), self._template_ids(rest))

    @functools.cached_property
    def _template_end(self) -> Ids:
        return self._template_ids(self.template.end)

    def _template_ids(self, text: str) -> Ids:
        return _ids(*self.template.ids(text)) if text else NO_IDS


def _ids(*ids: int) -> Ids:
    return np.array(ids, np.int64)
