"""Chat templates: third-party code that lays out conversations, rendered with limits around what people wrote.

Without tools, what a template writes depends on the roles of the messages alone, so placeholders stand for their texts
(`around`). A conversation with tools is rendered as a whole: see `tool_rendering.py`. In both, what a person or a tool wrote
never becomes a control token.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.data.tokenizing.plain import control_tokens, encoded, plain_ids
from llmctl.errors import IntegrityError
from llmctl.store import limited
from llmctl.store.border import border

TEMPLATE_SECONDS: Final = 0.5
TEMPLATE_MEGABYTES: Final = 64
TEMPLATE_CHARACTERS: Final = 1_000_000
"""Limits of CPU time, memory and text for rendering a chat template, which is third-party code."""

MARK: Final = "\ue000{}\ue001"
"""A private-use placeholder for a message's content while the chat template is rendered."""
BREAK: Final = "\ue002"
"""A private-use character inside the name of a control token that the template writes but did not think of."""

Message = dict[str, Any]
Job = tuple[list[Message], list[Any] | None, bool]
"""Messages, the definitions of tools, and whether the text ends where an answer begins."""


class TemplateFault(IntegrityError):
    """A chat template fails on a conversation of these roles, or takes too long."""


class ChatTemplate:
    """The chat template of a transformers tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._child = limited.Child(self._render, seconds=TEMPLATE_SECONDS, megabytes=TEMPLATE_MEGABYTES)

    # -- control tokens ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _control(self) -> dict[int, str]:
        """The control tokens that the template may write, and their names."""
        template = self._tokenizer.chat_template
        source = "\n".join(template.values()) if isinstance(template, Mapping) else template or ""
        return control_tokens(self._backend, source)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the control tokens that the template may write, the longest first."""
        found = {*self._control.values(), self._tokenizer.eos_token or ""} - {""}
        return tuple(sorted(found, key=lambda name: (-len(name), name)))

    @functools.cached_property
    def end(self) -> str:
        """The control token that ends an assistant turn, with any whitespace before it; empty if there is none."""
        _, _, rest = self.around(("user", "assistant"), False).partition(MARK.format(1))
        blanks = rest[: len(rest) - len(rest.lstrip())]
        name = next((name for name in self.names if rest.lstrip().startswith(name)), "")
        return blanks + name if name else ""

    def ids(self, text: str) -> list[int]:
        """Encode text of the template itself, in which names of control tokens become control tokens, unless `BREAK` is
        inside them."""
        found: list[int] = []
        for number, piece in enumerate(self._broken.split(text) if BREAK in text else [text]):
            if number % 2:
                found += plain_ids(self._backend, piece.replace(BREAK, ""), frozenset(self._control))
            elif piece:
                found += encoded(self._own_backend, piece).ids
        return found

    @functools.cached_property
    def _broken(self) -> re.Pattern[str]:
        """A name of a control token with `BREAK` inside it."""
        return re.compile("(" + "|".join(re.escape(broken(name)) for name in self.names) + ")")

    @functools.cached_property
    def _own_backend(self) -> Any:
        """The tokenizer for the template itself; a copy, since other threads encode with the shared one."""
        with border("the tokenizer cannot be used", self._tokenizer.name_or_path, silent=True):
            found = type(self._backend).from_str(self._backend.to_str())
        found.encode_special_tokens = False
        return found

    # -- rendering --------------------------------------------------------------------------------------------

    def around(self, roles: tuple[str, ...], add_generation_prompt: bool) -> str:
        """The template with a placeholder for the content of each message. Raises `TemplateFault` if that fails."""
        messages = [{"role": role, "content": MARK.format(number)} for number, role in enumerate(roles)]
        try:
            [text] = self._limited([(messages, None, add_generation_prompt)], self._once)
        except RuntimeError as error:
            raise self._fault(f"fails: {error}") from error
        for number in range(len(roles)):
            if text.count(MARK.format(number)) != 1:
                raise self._fault(f"does not render message {number + 1} exactly once")
        return text

    def rendered(self, jobs: list[Job]) -> list[str]:
        """Each job as text. Raises `RuntimeError` with what the template raises, `TemplateFault` beyond the limits."""
        return self._limited(jobs, self._child)

    def _limited(self, jobs: list[Job], child: Callable[[str], str]) -> list[str]:
        import jinja2  # noqa: F401 - imported here so that the time limit does not include the import

        try:
            found: list[str] = json.loads(child(json.dumps(jobs)))
        except limited.LimitExceeded as error:
            raise self._fault(str(error)) from error
        return found

    def _once(self, jobs: str) -> str:
        """`_render` in a process that does not stay: most templates are rendered once or twice."""
        return limited.call(lambda: self._render(jobs), seconds=TEMPLATE_SECONDS, megabytes=TEMPLATE_MEGABYTES)

    def _render(self, jobs: str) -> str:
        texts = []
        for messages, tools, add_generation_prompt in json.loads(jobs):
            text: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            if len(text) > TEMPLATE_CHARACTERS:
                raise ValueError(f"it renders {len(text):,} characters around {len(messages)} messages")
            texts.append(text)
        return json.dumps(texts)

    def _fault(self, problem: str) -> TemplateFault:
        return TemplateFault(
            f"the model's chat template {problem}",
            where=self._tokenizer.name_or_path or None,
            hint="fix chat_template.jinja",
        )


def broken(name: str) -> str:
    """The name of a control token that is to stay text."""
    return name[:1] + BREAK + name[1:]


def open_chat_template(folder: Path) -> ChatTemplate:
    """The chat template of a tokenizer's folder."""
    from llmctl.data.tokenizing.tokenizers import load_tokenizer

    return ChatTemplate(load_tokenizer(folder))
