"""Chat templates: third-party code that lays out conversations, rendered with limits around what people wrote.

Without tools, what a template writes depends on the roles of the messages alone, so placeholders stand for their texts
(`around`). A conversation with tools is rendered as a whole: see `tool_rendering.py`. In both, what a person or a tool wrote
never becomes a control token.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Final

from llmctl.data.tokenizing.plain import control_tokens, encoded, plain_ids, template_text
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
"""A private-use character inside the name of a control token that what a template is given would make."""

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
        return control_tokens(self._backend, template_text(self._tokenizer.chat_template))

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
        inside them. Nothing is encoded for `BREAK`."""
        shown = text.replace(BREAK, "")
        if shown == text:
            return list(encoded(self._own_backend, text).ids) if text else []
        breaks = {match.start() - number for number, match in enumerate(re.finditer(BREAK, text))}
        found: list[int] = []
        begin = 0
        for name in self._any_name.finditer(shown):
            if any(place in breaks for place in range(name.start() + 1, name.end())):
                found += self.ids(shown[begin : name.start()])
                found += plain_ids(self._backend, name[0], frozenset(self._control))
                begin = name.end()
        return found + self.ids(shown[begin:])

    @functools.cached_property
    def _any_name(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.names)) or "(?!)")

    @functools.cached_property
    def _own_backend(self) -> Any:
        """The tokenizer for the template itself; a copy, since other threads encode with the shared one."""
        with border("the tokenizer cannot be used", self._tokenizer.name_or_path, silent=True):
            found = type(self._backend).from_str(self._backend.to_str())
        found.encode_special_tokens = False
        return found

    @property
    def knows_tools(self) -> bool:
        """Whether the template mentions tools; most do not."""
        return "tool" in template_text(self._tokenizer.chat_template)

    # -- rendering --------------------------------------------------------------------------------------------

    def around(self, roles: tuple[str, ...], add_generation_prompt: bool) -> str:
        """The template with a placeholder for the content of each message. Raises `TemplateFault` if that fails."""
        messages = [{"role": role, "content": MARK.format(number)} for number, role in enumerate(roles)]
        import jinja2  # noqa: F401 - imported here so that the time limit does not include the import

        job = json.dumps((messages, None, add_generation_prompt))
        try:
            text = limited.call(lambda: self._render(job), seconds=TEMPLATE_SECONDS, megabytes=TEMPLATE_MEGABYTES)
        except limited.LimitExceeded as error:
            raise self._fault(str(error)) from error
        except RuntimeError as error:
            raise self._fault(f"fails: {error}") from error
        for number in range(len(roles)):
            if text.count(MARK.format(number)) != 1:
                raise self._fault(f"does not render message {number + 1} exactly once")
        return text

    def rendered(self, job: Job) -> str:
        """The job as text. Raises `RuntimeError` with what the template raises, `limited.LimitExceeded`."""
        import jinja2  # noqa: F401 - imported here so that the time limit does not include the import

        return self._child(json.dumps(job))

    def _render(self, job: str) -> str:
        messages, tools, add_generation_prompt = json.loads(job)
        text: str = self._tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        if len(text) > TEMPLATE_CHARACTERS:
            raise ValueError(f"it renders {len(text):,} characters around {len(messages)} messages")
        return text

    def _fault(self, problem: str) -> TemplateFault:
        return TemplateFault(
            f"the model's chat template {problem}",
            where=self._tokenizer.name_or_path or None,
            hint="fix chat_template.jinja",
        )


def open_chat_template(folder: Path) -> ChatTemplate:
    """The chat template of a tokenizer's folder."""
    from llmctl.data.tokenizing.tokenizers import load_tokenizer

    return ChatTemplate(load_tokenizer(folder))
