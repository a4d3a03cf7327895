"""What stands around the texts of a decoder's sequence: control tokens, a chat template, or plain words."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmctl.data.plain import control_tokens
from llmctl.data.spec import CHAT_ROLES
from llmctl.errors import IntegrityError, UsageError
from llmctl.types import Role

PromptFormat = Literal["document", "control", "template", "plain", "pair", "single"]
Ids = NDArray[np.int64]
SegmentKinds = tuple[tuple[Role, bool], ...]
"""The role of each text, and whether it is learned."""

NO_IDS: Final[Ids] = np.empty(0, np.int64)
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
"""Conversations in the styles that are llmctl's own, as a template that other tools render."""

TEMPLATE_SECONDS: Final = 0.5
"""Processor time that a chat template, a program of somebody else's, may take."""

_MARK: Final = "\ue000{}\ue001"
"""A private-use placeholder for a message's content while the chat template is rendered."""


class ChatFrame(NamedTuple):
    """What stands around N texts: `before` (N) each, `ends` (N) each and learned with it, `after` the last."""

    before: tuple[Ids, ...]
    ends: tuple[Ids, ...]
    after: Ids

    @property
    def length(self) -> int:
        """Tokens of all of it."""
        return sum(map(len, self.before)) + sum(map(len, self.ends)) + len(self.after)


def is_chat(roles: Iterable[Role]) -> bool:
    return any(role in CHAT_ROLES for role in roles)


class ChatFrames:
    """Frames of one tokenizer and style, each made once."""

    def __init__(
        self, tokenizer: Any, prompt_format: PromptFormat, instruction: str, encode: Callable[[str], list[int]]
    ) -> None:
        """`encode`: plain text to ids, none of them a control token."""
        self.tokenizer, self.prompt_format, self.instruction = tokenizer, prompt_format, instruction
        self._backend, self._encode = tokenizer.backend_tokenizer, encode
        self._made: dict[tuple[SegmentKinds, bool], ChatFrame] = {}

    def of(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        """The frame of texts in these roles; `add_generation_prompt` ends it where the answer begins."""
        found = self._made.get((parts, add_generation_prompt))
        if found is None:
            make = {"document": self._document, "control": self._control, "template": self._template}
            found = self._made[parts, add_generation_prompt] = make.get(self.prompt_format, self._plain)(
                parts, add_generation_prompt
            )
        return found

    # -- single tokens ----------------------------------------------------------------------------------------

    @functools.cached_property
    def eos(self) -> int:
        token: int | None = self.tokenizer.eos_token_id
        if token is None:
            token = self.tokenizer.sep_token_id
        if token is None:
            raise IntegrityError("the tokenizer has no token that ends a text", hint="give one with an eos_token")
        return token

    @property
    def opening(self) -> int:
        bos: int | None = self.tokenizer.bos_token_id
        return bos if bos is not None else self.eos

    @functools.cached_property
    def separator(self) -> int:
        """What stands between two texts of one source: <|sep|>, or the tokenizer's own, or what ends a text."""
        own: int | None = self._backend.token_to_id("<|sep|>")
        named: int | None = self.tokenizer.sep_token_id
        return own if own is not None else named if named is not None else self.eos

    @functools.cached_property
    def answer_end(self) -> Ids:
        """What ends an answer and is learned with it."""
        return self._template_end[1] if self.prompt_format == "template" else np.array([self.eos])

    def _id(self, token: str) -> int:
        found: int | None = self._backend.token_to_id(token)
        if found is None:
            raise UsageError(
                f"the tokenizer has no control token {token}", hint="preprocess with a tokenizer trained here"
            )
        return found

    # -- styles -----------------------------------------------------------------------------------------------

    def _document(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        last = len(parts) - 1
        return ChatFrame(
            tuple(_ids(*([self.opening] if number == 0 else [])) for number in range(len(parts))),
            tuple(
                _ids(*([self.eos] if number == last and not add_generation_prompt else []))
                for number in range(len(parts))
            ),
            NO_IDS,
        )

    def _control(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        chat = is_chat(role for role, _ in parts)
        before, ends = [], []
        for number, (role, in_loss) in enumerate(parts):
            opening = [self.opening] if number == 0 else []
            mark = [self._id(f"<|{role}|>")] if chat else [self._id("<|sep|>")] if number else []
            before.append(_ids(*opening, *mark))
            ends.append(_ids(*([self.eos] if chat or in_loss else [])))
        after = [self._id("<|assistant|>" if chat else "<|sep|>")] if add_generation_prompt else []
        return ChatFrame(tuple(before), tuple(ends), _ids(*after))

    def _plain(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        if is_chat(role for role, _ in parts):
            return self._plain_chat(parts, add_generation_prompt)
        # What shall be done stands nearest to the answer: a model that was not told to obey goes on from there.
        answer = BLANK_LINE + self.instruction + BLANK_LINE if self.instruction else BLANK_LINE
        before, ends = [], []
        for number, (_, in_loss) in enumerate(parts):
            between = answer if in_loss else BLANK_LINE if number else ""
            before.append(_ids(*([self.opening] if number == 0 else []), *self._encode(between)))
            ends.append(_ids(*([self.eos] if in_loss else [])))
        return ChatFrame(tuple(before), tuple(ends), _ids(*(self._encode(answer) if add_generation_prompt else [])))

    def _plain_chat(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        before, ends = [], []
        for number, (role, _) in enumerate(parts):
            heading = self._encode(("" if number == 0 else BLANK_LINE) + f"{role.capitalize()}:\n")
            before.append(_ids(*([self.opening] if number == 0 else []), *heading))
            ends.append(_ids(*([self.eos] if role == "assistant" else [])))
        return ChatFrame(
            tuple(before),
            tuple(ends),
            _ids(*(self._encode(f"{BLANK_LINE}Assistant:\n") if add_generation_prompt else [])),
        )

    # -- chat templates ---------------------------------------------------------------------------------------

    def _template(self, parts: SegmentKinds, add_generation_prompt: bool) -> ChatFrame:
        """The chat template rendered around placeholders: what is the template's may be control tokens, what is
        the user's never is. Texts that are given one after the other are one message of the user."""
        roles: list[str] = []
        first: list[bool] = []
        for role, in_loss in parts:
            spoken = role if role in CHAT_ROLES else "assistant" if in_loss else "user"
            first.append(not roles or role in CHAT_ROLES or in_loss or roles[-1] != spoken)
            if first[-1]:
                roles.append(spoken)
        rest = render_template(self.tokenizer, tuple(roles), add_generation_prompt)
        instruction_ids = self._encode(self.instruction + BLANK_LINE) if self.instruction else []
        before, ends = [], []
        message = 0
        for number, ((role, in_loss), opens) in enumerate(zip(parts, first, strict=True)):
            if opens:
                shown, _, rest = rest.partition(_MARK.format(message))
                message += 1
                instruction = instruction_ids if number == 0 and role not in CHAT_ROLES else []
                before.append(_ids(*self._template_ids(shown), *instruction))
            else:
                before.append(_ids(*self._encode(BLANK_LINE)))
            text, end = self._template_end if in_loss else ("", NO_IDS)
            ends.append(end if rest.startswith(text) else NO_IDS)
            rest = rest.removeprefix(text)
        return ChatFrame(tuple(before), tuple(ends), self._template_ids(rest))

    @functools.cached_property
    def _template_end(self) -> tuple[str, Ids]:
        """The control token with which the template ends the assistant's turn, and blanks before it; as text and ids."""
        _, _, rest = render_template(self.tokenizer, ("user", "assistant"), False).partition(_MARK.format(1))
        blanks = rest[: len(rest) - len(rest.lstrip())]
        names = control_tokens(self._backend, self.tokenizer.chat_template).values()
        found = [name for name in (*names, self.tokenizer.eos_token or "") if name and rest.lstrip().startswith(name)]
        if not found:
            return "", NO_IDS
        end = blanks + max(found, key=len)
        return end, self._template_ids(end)

    def _template_ids(self, text: str) -> Ids:
        """Text of the template itself, in which control tokens are meant."""
        if not text:
            return NO_IDS
        self._backend.encode_special_tokens = False
        try:
            return _ids(*self._backend.encode(text, add_special_tokens=False).ids)
        finally:
            self._backend.encode_special_tokens = True


class _TooLong(BaseException):
    """Not an `Exception`: a template's own machinery must not catch it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End what runs inside after so much processor time, which a busy machine does not shorten.

    Only the main thread has the signal for it; in others there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise _TooLong

    previous = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def render_template(tokenizer: Any, roles: tuple[str, ...], add_generation_prompt: bool) -> str:
    """The chat template's text with a placeholder in each message's place. Raises `IntegrityError` if it fails."""
    messages: list[Mapping[str, str]] = [
        {"role": role, "content": _MARK.format(number)} for number, role in enumerate(roles)
    ]
    import jinja2  # noqa: F401 - so that its import is not counted

    try:
        with _limited(TEMPLATE_SECONDS):
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
    except _TooLong as error:
        raise IntegrityError(
            f"the chat template of the model did not end within {TEMPLATE_SECONDS} s", hint="mend chat_template.jinja"
        ) from error
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


def _ids(*ids: int) -> Ids:
    return np.array(ids, np.int64)
