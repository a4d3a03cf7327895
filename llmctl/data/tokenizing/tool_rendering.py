"""Conversations with tools, rendered by a chat template as a whole and cut into segments.

The template sees placeholders in place of the texts of people, the assistant and tools, and the calls and definitions as they
are, but harmless: see `harmless.py`. What it writes around the placeholders is a segment of the role `template`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmctl.data.tokenizing.chat_template import BREAK, ChatTemplate, Job, Message
from llmctl.data.tokenizing.harmless import Harmless
from llmctl.errors import DataError
from llmctl.store import limited
from llmctl.types import TOOL_ROLES, Role, Segment

_MARK: Final = '\ue000{}"\ue001'
"""A placeholder with a quotation mark, which shows whether the template writes the content as JSON."""
_ESCAPED: Final = json.dumps(BREAK)[1:-1]
_MARKS: Final = re.compile('\ue000(\\d{1,9})(\\\\?)"\ue001')


def uses_tools(roles: Iterable[Role]) -> bool:
    """Whether segments of these roles are a conversation with tools that is not rendered yet."""
    found = frozenset(roles)
    return "template" not in found and not found.isdisjoint(TOOL_ROLES)


def written(segment: Segment) -> str:
    """The text of a rendered segment as a model reads it."""
    return segment.text.replace(BREAK, "") if segment.role == "template" else segment.text


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """A `DataError` that is raised inside says where the conversation is."""
    try:
        yield
    except DataError as error:
        error.where = error.where or where
        raise


def rendered(template: ChatTemplate, segments: Sequence[Segment]) -> list[Segment]:
    """A conversation with tools as the template renders it: its own text in the role `template`, the texts of people and
    tools in theirs. Without segments in the loss it is a prompt and ends where the answer begins.

    An answer is in the loss from where a prompt ends to its end token. Raises `DataError` for a conversation that the
    template does not render, or of which it leaves something out.
    """
    if not template.knows_tools:
        raise _refused("does not support them")
    conversation = _Conversation.of(segments, Harmless(template.names))
    problem = ""
    for as_text, empty in itertools.product((False, True), (None, "")):
        messages = [_in_form(each, as_text, empty) for each in conversation.messages]
        try:
            whole = _rendered(template, (messages, conversation.tools, not conversation.answers))
            marks = _Marks(whole, conversation)
            if left_out := marks.left_out():
                problem = problem or left_out
                continue
            spans: list[tuple[int, int]] = []
            for answer in conversation.answers:
                asked, answered = messages[:answer], messages[: answer + 1]
                bounds = _Bounds(template, marks, answer, least=spans[-1][1] if spans else 0)
                begin = bounds.begin(asked, _rendered(template, (asked, conversation.tools, True)))
                spans.append(
                    (begin, bounds.end(_rendered(template, (answered, conversation.tools, False)).rstrip(), begin))
                )
        except RuntimeError as error:
            problem = problem or f"fails on it: {error}"
            continue
        except limited.LimitExceeded as error:
            problem = str(error)
            break
        return list(_cut(whole, spans, conversation.texts, template.names))
    raise _refused(problem)


def _rendered(template: ChatTemplate, job: Job) -> str:
    """The rendered job; a template that writes non-ASCII as escapes does so with `BREAK` too."""
    return template.rendered(job).replace(_ESCAPED, BREAK)


def _refused(problem: str) -> DataError:
    return DataError(
        f"the conversation uses tools, and the chat template {problem}",
        hint="use a model whose template knows tools, or leave them out: preprocess --set tool_calls=drop",
    )


@dataclass(slots=True)
class _Conversation:
    """A conversation in the form that templates take, with placeholders for the texts."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Any] | None = None
    texts: list[Segment] = field(default_factory=list)
    """The text behind each placeholder."""
    places: list[int] = field(default_factory=list)
    """The message of each placeholder."""
    answers: list[int] = field(default_factory=list)
    """The messages in the loss."""

    @classmethod
    def of(cls, segments: Sequence[Segment], harmless: Harmless) -> _Conversation:
        """`harmless`: takes the names of control tokens out of calls and definitions."""
        found = cls()
        waiting: Sequence[Mapping[str, Any]] = ()
        before: Segment | None = None
        for segment in segments:
            role = segment.role
            if role == "tools":
                found.tools = [_definition(each) for each in harmless.definitions(_loaded(segment.text))]
                continue
            message: Message = {"role": role}
            if role == "calls":
                waiting = harmless.calls(_loaded(segment.text))
                calls = [
                    {
                        "id": call["id"],
                        "type": "function",
                        "function": {each: call[each] for each in ("name", "arguments")},
                    }
                    for call in waiting
                ]
                if before is not None and before.role == "assistant" and before.in_loss == segment.in_loss:
                    found.messages[-1]["tool_calls"] = calls
                    before = segment
                    continue
                message = {"role": "assistant", "tool_calls": calls}
            else:
                message["content"] = _MARK.format(len(found.texts))
                found.places.append(len(found.messages))
                found.texts.append(segment)
                if role == "tool" and waiting:
                    message |= {"tool_call_id": waiting[0]["id"], "name": waiting[0]["name"]}
                    waiting = waiting[1:]
            if segment.in_loss:
                found.answers.append(len(found.messages))
            found.messages.append(message)
            before = segment
        return found


class _Marks:
    """Where the placeholders are in a rendered conversation."""

    def __init__(self, whole: str, conversation: _Conversation) -> None:
        self.whole, self.conversation = whole, conversation
        count = len(conversation.messages)
        found = [(int(match[1]), match.span()) for match in _MARKS.finditer(whole)]
        self._seen = Counter(number for number, _ in found)
        places = [(conversation.places[number], span) for number, span in found if number < len(conversation.places)]
        self._own = dict(places)
        ends, begins = [0] * (count + 1), [len(whole)] * (count + 1)
        for place, (begin, end) in places:
            ends[place + 1], begins[place] = max(ends[place + 1], end), min(begins[place], begin)
        self._ends = list(itertools.accumulate(ends, max))
        self._begins = list(itertools.accumulate(reversed(begins), min))[::-1]

    def around(self, place: int) -> tuple[int, tuple[int, int] | None, int]:
        """Where the last placeholder before a message ends, the bounds of its own, and where the first after it begins."""
        return self._ends[place], self._own.get(place), self._begins[place + 1]

    def left_out(self) -> str:
        """What the template does not render."""
        texts = self.conversation.texts
        if self._seen != Counter(range(len(texts))):
            place = next((number for number in range(len(texts)) if self._seen[number] != 1), 0)
            shown = "answer of a tool" if texts[place].role == "tool" else f"{texts[place].role} turn"
            return f"does not render the {shown} exactly once"
        for place, message in enumerate(self.conversation.messages):
            if "tool_calls" in message:
                begin, _, end = self.around(place)
                for call in message["tool_calls"]:
                    begin = self.whole.find(name := call["function"]["name"], begin, end) + 1
                    if not begin:
                        return f"leaves the call of {name.replace(BREAK, '')!r} out"
        for tool in self.conversation.tools or ():
            function = tool.get("function") if isinstance(tool, Mapping) else None
            name = function.get("name") if isinstance(function, Mapping) else None
            if isinstance(name, str) and name not in self.whole:
                return f"leaves the definition of {name.replace(BREAK, '')!r} out"
        return ""


class _Bounds:
    """Where an answer begins and ends in a rendered conversation.

    Mostly it is what follows the prompt. But templates render turns differently once others follow, and may begin a prompt
    with something that answers do not have, such as the mark of a train of thought; then its bounds are searched for.
    """

    def __init__(self, template: ChatTemplate, marks: _Marks, answer: int, *, least: int) -> None:
        """`answer`: the place of its message. `least`: where the answer before it ends."""
        self._template, self._whole, self._answer = template, marks.whole, answer
        self._tools, self._message = marks.conversation.tools, marks.conversation.messages[answer]
        after, self._own, self._before = marks.around(answer)
        self._after = max(after, least)

    def begin(self, messages: list[Message], prompt: str) -> int:
        """`prompt`: the rendered prompt of these messages."""
        if self._whole.startswith(prompt):
            return len(prompt)
        asked = _rendered(self._template, (messages, self._tools, False))
        heading = prompt.removeprefix(asked) if prompt.startswith(asked) else ""
        limit = self._own[0] if self._own else self._before
        for length in range(len(heading), 0, -1):
            part = heading[:length]
            is_whole = length == len(heading) or part[-1].isspace() or part.endswith(self._template.names)
            if is_whole and part.strip() and (place := self._whole.find(part, self._after, limit)) >= 0:
                return place + length
        if self._own is None:
            raise self._unclear()
        return self._own[0]

    def end(self, answered: str, begin: int) -> int:
        """`answered`: the rendered conversation up to this answer."""
        if self._whole.startswith(answered) and len(answered) > begin:
            return len(answered)
        least = self._own[1] if self._own else begin
        for call in self._message.get("tool_calls", ()):
            least = max(least, self._whole.find(call["function"]["name"], least, self._before))
        ending = next((name for name in self._template.names if answered.endswith(name)), "")
        place = self._whole.find(ending, least, self._before) if ending else -1
        if place < 0:
            raise self._unclear()
        return place + len(ending)

    def _unclear(self) -> DataError:
        return DataError(
            "the conversation uses tools, and the chat template renders its answers differently once others follow:"
            f" message {self._answer + 1}",
            hint="give each of its answers a conversation of its own, or that message the weight 0",
        )


def _cut(
    whole: str, spans: Sequence[tuple[int, int]], texts: Sequence[Segment], names: Sequence[str]
) -> Iterator[Segment]:
    """The segments of a rendered conversation; the control token that ends an answer is one of its own."""
    edges = [0, *(edge for span in spans for edge in span), len(whole)]
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        in_loss = number % 2 == 1
        if in_loss and not _MARKS.search(whole, begin, end):
            yield Segment("assistant", "", in_loss)  # a turn without text is a turn
        pieces = _MARKS.split(whole[begin:end])
        for place, piece in enumerate(pieces):
            if place % 3 == 1:
                text = texts[int(piece)].text
                as_json = pieces[place + 1] == "\\"
                yield Segment(
                    texts[int(piece)].role, json.dumps(text, ensure_ascii=False)[1:-1] if as_json else text, in_loss
                )
            elif place % 3 == 0:
                is_last = in_loss and place == len(pieces) - 1
                ending = next((name for name in names if is_last and piece.endswith(name)), "")
                rest = piece.removesuffix(ending)
                yield from (Segment("template", each, in_loss) for each in (rest, ending) if each)


def _loaded(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("the calls or definitions of tools are no longer valid JSON: cleaning changed them") from error
    return found if isinstance(found, list) else [found]


def _definition(value: Any) -> Any:
    """A definition in OpenAI's form, which templates take."""
    known = not isinstance(value, Mapping) or "function" in value or "name" not in value
    return value if known else {"type": "function", "function": value}


def _in_form(message: Message, as_text: bool, empty: str | None) -> Message:
    """A message in a form that templates differ in: arguments as an object or as JSON, and no content or an empty one."""
    calls = message.get("tool_calls")
    if calls is None:
        return message
    if as_text:
        texts = [json.dumps(each["function"]["arguments"], ensure_ascii=False) for each in calls]
        calls = [
            {**each, "function": {**each["function"], "arguments": text}}
            for each, text in zip(calls, texts, strict=True)
        ]
    return {**({} if empty is None else {"content": empty}), **message, "tool_calls": calls}
