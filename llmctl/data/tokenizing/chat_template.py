"""Chat templates: third-party code that lays out conversations, rendered with limits around what people wrote.

Without tools, what a template writes depends on the roles of the messages alone, so placeholders stand for their texts
(`around`). Calls and definitions of tools are a part of what it writes: a conversation with them is rendered as a whole
(`rendered`). In both, what a person or a tool wrote never becomes a control token.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctl.data.tokenizing.plain import control_tokens, encoded, plain_ids
from llmctl.errors import DataError, IntegrityError
from llmctl.store import limited
from llmctl.types import TOOL_ROLES, Role, Segment

TEMPLATE_SECONDS: Final = 0.5
TEMPLATE_MEGABYTES: Final = 64
TEMPLATE_CHARACTERS: Final = 1_000_000
"""Limits of CPU time, memory and text for rendering a chat template, which is third-party code."""

MARK: Final = "\ue000{}\ue001"
"""A private-use placeholder for a message's content while the chat template is rendered."""
_QUOTED: Final = '\ue000{}"\ue001'
"""Such a placeholder with a quotation mark, which shows whether the template writes the content as JSON."""
_MARKS: Final = re.compile('\ue000(\\d+)(\\\\?)"\ue001')
_BREAK: Final = "\ue002"
"""A private-use character inside the name of a control token that a call or a definition of a tool contains."""

Message = dict[str, Any]


class TemplateFault(IntegrityError):
    """A chat template fails on a conversation of these roles, or takes too long."""


def uses_tools(roles: Iterable[Role]) -> bool:
    """Whether segments of these roles are a conversation with tools that is not rendered yet."""
    found = frozenset(roles)
    return "template" not in found and not found.isdisjoint(TOOL_ROLES)


def written(segment: Segment) -> str:
    """The text of a rendered segment as a model reads it."""
    return segment.text.replace(_BREAK, "") if segment.role == "template" else segment.text


@dataclass(slots=True)
class _Conversation:
    """A conversation in the form that templates take, with placeholders for the texts."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Any] | None = None
    texts: list[Segment] = field(default_factory=list)
    """The text behind each placeholder."""
    answers: list[int] = field(default_factory=list)
    """The messages in the loss."""


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
    def end(self) -> str:
        """The control token that ends an assistant turn, with any whitespace before it; empty if there is none."""
        _, _, rest = self.around(("user", "assistant"), False).partition(MARK.format(1))
        blanks = rest[: len(rest) - len(rest.lstrip())]
        names = [*self._control.values(), self._tokenizer.eos_token or ""]
        found = [name for name in names if name and rest.lstrip().startswith(name)]
        return blanks + max(found, key=len) if found else ""

    def ids(self, text: str) -> list[int]:
        """Encode text of the template itself, in which names of control tokens become control tokens, unless `_BREAK` is
        inside them."""
        found: list[int] = []
        for number, piece in enumerate(self._broken.split(text) if _BREAK in text else [text]):
            if number % 2:
                found += plain_ids(self._backend, piece.replace(_BREAK, ""), frozenset(self._control))
            elif piece:
                found += encoded(self._own_backend, piece).ids
        return found

    @functools.cached_property
    def _broken(self) -> re.Pattern[str]:
        """A name of a control token with `_BREAK` inside it."""
        names = sorted(self._control.values(), key=len, reverse=True)
        return re.compile("(" + "|".join(re.escape(_broken(name)) for name in names) + ")")

    @functools.cached_property
    def _own_backend(self) -> Any:
        """The tokenizer for the template itself; a copy, since other threads encode with the shared one."""
        found = type(self._backend).from_str(self._backend.to_str())
        found.encode_special_tokens = False
        return found

    # -- rendering --------------------------------------------------------------------------------------------

    def around(self, roles: tuple[str, ...], add_generation_prompt: bool) -> str:
        """The template with a placeholder for the content of each message. Raises `TemplateFault` if that fails."""
        messages = [{"role": role, "content": MARK.format(number)} for number, role in enumerate(roles)]
        try:
            [text] = self._rendered([[messages, None, add_generation_prompt]], self._once)
        except RuntimeError as error:
            raise self._fault(f"fails: {error}") from error
        for number in range(len(roles)):
            if text.count(MARK.format(number)) != 1:
                raise self._fault(f"does not render message {number + 1} exactly once")
        return text

    def rendered(self, segments: Sequence[Segment]) -> list[Segment]:
        """A conversation with tools as the template renders it: its own text in the role `template`, the texts of people
        and tools in theirs. Without segments in the loss it is a prompt and ends where the answer begins.

        An answer is in the loss from where a prompt ends to its end token. Raises `DataError` for a conversation that the
        template does not render, or of which it leaves something out.
        """
        conversation = self._conversation(segments)
        prompt = not conversation.answers
        problem = ""
        for as_text, empty in itertools.product((False, True), (None, "")):
            messages = [_in_form(each, as_text, empty) for each in conversation.messages]
            jobs: list[Any] = [[messages, conversation.tools, prompt]]
            for answer in conversation.answers:
                jobs += [[messages[:answer], conversation.tools, True]]
                jobs += [[messages[: answer + 1], conversation.tools, False]]
            try:
                whole, *parts = self._rendered(jobs, self._child)
            except RuntimeError as error:
                problem = problem or f"fails on it: {error}"
                continue
            if left_out := self._left_out(whole, conversation):
                problem = problem or left_out
                continue
            spans = self._spans(whole, conversation, parts)
            return list(self._segments(whole, spans, conversation.texts))
        raise DataError(
            f"the conversation uses tools, and the chat template {problem}",
            hint="use a model whose template knows tools, or leave them out: preprocess --set tool_calls=drop",
        )

    def _rendered(self, jobs: list[Any], child: Callable[[str], str]) -> list[str]:
        """Each job, [messages, tools, add_generation_prompt], as text. Raises `RuntimeError` with what the template raises."""
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

    # -- conversations with tools -----------------------------------------------------------------------------

    def _conversation(self, segments: Sequence[Segment]) -> _Conversation:
        found = _Conversation()
        waiting: list[Mapping[str, Any]] = []
        before: Role | None = None
        for segment in segments:
            role = segment.role
            if role == "tools":
                found.tools = [self._tool(each) for each in _loaded(segment.text)]
                continue
            message: Message = {"role": role}
            if role == "calls":
                waiting = [self._harmless(each) for each in _loaded(segment.text)]
                calls = [{"id": each["id"], "type": "function", "function": _function(each)} for each in waiting]
                if before == "assistant":
                    found.messages[-1]["tool_calls"] = calls
                    before = role
                    continue
                message = {"role": "assistant", "tool_calls": calls}
            else:
                message["content"] = _QUOTED.format(len(found.texts))
                found.texts.append(segment)
                if role == "tool" and waiting:
                    message |= {"tool_call_id": waiting[0]["id"], "name": waiting[0]["name"]}
                    waiting = waiting[1:]
            if segment.in_loss:
                found.answers.append(len(found.messages))
            found.messages.append(message)
            before = role
        return found

    def _tool(self, value: Any) -> Any:
        """A definition in OpenAI's form, which templates take."""
        known = not isinstance(value, Mapping) or "function" in value or "name" not in value
        return self._harmless(value if known else {"type": "function", "function": value})

    def _harmless(self, value: Any) -> Any:
        """The value without names of control tokens in its texts."""
        if isinstance(value, str):
            for name in self._control.values():
                value = value.replace(name, _broken(name)) if name in value else value
            return value
        if isinstance(value, list):
            return [self._harmless(each) for each in value]
        if isinstance(value, Mapping):
            return {self._harmless(name): self._harmless(each) for name, each in value.items()}
        return value

    @staticmethod
    def _left_out(whole: str, conversation: _Conversation) -> str:
        """What the template does not render of a conversation."""
        seen = [int(each) for each, _ in _MARKS.findall(whole)]
        for number, segment in enumerate(conversation.texts):
            if seen.count(number) != 1:
                return f"does not render the {_shown(segment)} exactly once"
        calls = [
            each["function"]["name"] for message in conversation.messages for each in message.get("tool_calls", ())
        ]
        tools = [each.get("function", {}).get("name") for each in conversation.tools or () if isinstance(each, Mapping)]
        for kind, names in (("call", calls), ("definition", tools)):
            for name in names:
                if isinstance(name, str) and name not in whole:
                    return f"leaves the {kind} of {name.replace(_BREAK, '')!r} out"
        return ""

    def _spans(self, whole: str, conversation: _Conversation, parts: Sequence[str]) -> list[tuple[int, int]]:
        """Where each answer that is in the loss begins and ends in the rendered conversation."""
        spans = []
        for number, answer in enumerate(conversation.answers):
            before, after = parts[2 * number], parts[2 * number + 1].rstrip()
            if not (whole.startswith(before) and whole.startswith(after) and len(before) < len(after)):
                raise DataError(
                    "the conversation uses tools, and the chat template renders its answers differently once others follow"
                    f": message {answer + 1}",
                    hint="give each of its answers a conversation of its own, or that message the weight 0",
                )
            spans.append((len(before), len(after)))
        return spans

    def _segments(self, whole: str, spans: Sequence[tuple[int, int]], texts: Sequence[Segment]) -> Iterator[Segment]:
        edges = [0, *(edge for span in spans for edge in span), len(whole)]
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            in_loss = number % 2 == 1
            pieces = _MARKS.split(whole[begin:end])
            for place, piece in enumerate(pieces):
                if place % 3 == 1:
                    text = texts[int(piece)].text
                    as_json = pieces[place + 1] == "\\"
                    shown = json.dumps(text, ensure_ascii=False)[1:-1] if as_json else text
                    yield Segment(texts[int(piece)].role, shown, in_loss)
                if place % 3:
                    continue
                ending = self.end if in_loss and place == len(pieces) - 1 and piece.endswith(self.end) else ""
                yield from (Segment("template", each, in_loss) for each in (piece.removesuffix(ending), ending) if each)


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """A `DataError` that is raised inside says where the conversation is."""
    try:
        yield
    except DataError as error:
        error.where = error.where or where
        raise


def open_chat_template(folder: Path) -> ChatTemplate:
    """The chat template of a tokenizer's folder."""
    from llmctl.data.tokenizing.tokenizers import load_tokenizer

    return ChatTemplate(load_tokenizer(folder))


def _loaded(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the calls or definitions of tools are no valid JSON any more: cleaning changed them"
        ) from error
    return found if isinstance(found, list) else [found]


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": call["name"], "arguments": call["arguments"]}


def _in_form(message: Message, as_text: bool, empty: str | None) -> Message:
    """A message in a form that templates differ in: arguments as an object or as JSON, and no content or an empty one."""
    calls = message.get("tool_calls")
    if calls is None:
        return message
    if as_text:
        written = [json.dumps(each["function"]["arguments"], ensure_ascii=False) for each in calls]
        calls = [
            {**each, "function": {**each["function"], "arguments": text}}
            for each, text in zip(calls, written, strict=True)
        ]
    return {"content": empty, **message, "tool_calls": calls} if empty is not None else {**message, "tool_calls": calls}


def _broken(name: str) -> str:
    return name[:1] + _BREAK + name[1:]


def _shown(segment: Segment) -> str:
    return "answer of a tool" if segment.role == "tool" else f"{segment.role} turn"
