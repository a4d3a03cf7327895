"""The conversation in a record of any common layout: a list of turns, or columns of a question and its answer."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from llmctl.types import Adapting

ANSWERED_BY: Final[dict[str, tuple[str, ...]]] = {
    "instruction": ("output", "response", "completion", "answer"),
    "prompt": ("completion", "response", "output", "answer", "text"),
    "query": ("response", "answer", "output"),
    "question": ("answer", "response", "output"),
    "problem": ("solution", "answer"),
    "input": ("output", "target", "response"),
    "inputs": ("targets",),
    "human": ("assistant", "gpt", "bot", "moss"),
    "user": ("assistant", "bot"),
}
"""Columns that ask, and those that may hold the answer."""
FURTHER: Final = ("input", "context")
"""Columns with what a question is about."""
SYSTEMS: Final = ("system", "system_prompt", "system_message", "meta_instruction")
"""Columns with the system message of a conversation."""
TURNS: Final = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "data")
"""Columns with the turns of a conversation."""
AS_TEXT: Final = "values that are no text: written as text"
NO_ROLES: Final = "turns without roles: the user's and the assistant's by turns"
_ROLE: Final = ("role", "from", "speaker", "author")
_CONTENT: Final = ("content", "value", "text", "utterance")
_LEARNED: Final = ("train", "loss")
"""Flags of a turn that say whether it is learned."""
_MOSS: Final = re.compile(r"^\s*<\|[^|>]+\|>: ?|<eo[a-z]>\s*$")
_ARRAY: Final = re.compile(r"array\(|['\"]\s+['\"]")
"""What Python prints of a NumPy array, which does not separate texts by commas."""

Fields = dict[str, Any]


def pair_of(fields: Fields, adapting: Adapting) -> tuple[str, str, str] | None:
    """Remove and return a question, what it is about, and the answer, if two columns hold them. Counts the layout."""
    for asked, answers in ANSWERED_BY.items():
        answer = next((name for name in answers if asked in fields and name in fields), None)
        if answer is None or as_text(fields[asked]) is None or as_text(fields[answer]) is None:
            continue
        more = ""
        used = [asked, answer]
        for name in FURTHER:
            if name not in used and not more.strip() and (text := as_text(fields.get(name))) is not None:
                used += [name] if name in fields else []
                more = text
        alpaca = (asked, answer) == ("instruction", "output")
        name = "Alpaca (instruction, input, output)" if alpaca else ", ".join((asked, *used[2:], answer))
        adapting.layouts[name] += 1
        if any(not isinstance(fields[name], str | None) for name in used):
            adapting.changed[AS_TEXT] += 1
        question, text = as_text(fields[asked]) or "", as_text(fields[answer]) or ""
        for name in used:
            del fields[name]
        return question, more, text
    return None


def as_text(value: Any) -> str | None:
    """A value of one cell as text: numbers and truth values as JSON writes them, texts of a list on lines of their own,
    null as no text. None for what is no such value."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list):
        texts = [as_text(each) for each in value if not isinstance(each, list)]
        return "\n".join(each or "" for each in texts) if len(texts) == len(value) and None not in texts else None
    return None


def messages_of(fields: Fields, adapting: Adapting) -> Any:
    """Remove and return the messages of a record, of whatever layout; None if there are none. Counts the layout."""
    for name in TURNS:
        value = structured(fields.get(name))
        if isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
            value = list(value.values())  # {"turn_1": {…}, "turn_2": {…}}
        if name == "messages" and value is not None and not isinstance(value, list):
            return value  # the task names the fault
        if not isinstance(value, list) or (name == "data" and not _are_texts(value)):
            continue
        del fields[name]
        if name != "messages":
            adapting.layouts[f"ShareGPT ({name})" if name.startswith("conversation") else name] += 1
        return spoken(value, adapting)
    if all(isinstance(fields.get(name), list) for name in ("prompt", "completion")):
        adapting.layouts["prompt, completion"] += 1
        return [*fields.pop("prompt"), *fields.pop("completion")]
    pair = pair_of(fields, adapting)
    if pair is None:
        return None
    question, more, answer = pair
    asked = "\n\n".join(text for text in (question, more) if text.strip())
    history = structured(fields.get("history"))
    if not history or isinstance(history, list):
        fields.pop("history", None)
    past = spoken(history, adapting) if isinstance(history, list) else []
    return [*past, *_two(asked, answer)]


def structured(value: Any) -> Any:
    """A list or an object that a table holds as text, written in JSON or as Python prints it; any other value as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return value if _ARRAY.search(value) else ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def is_printed_array(text: str) -> bool:
    """Whether this text is what Python prints of a NumPy array, which cannot be read back."""
    return text.strip()[:1] in ("[", "{") and structured(text) is text and _ARRAY.search(text) is not None


def spoken(turns: list[Any], adapting: Adapting) -> list[Any]:
    """Turns as messages: of texts alone, of pairs of a question and its answer, of one role each, or with other names
    of role and content. What is none of these is returned as it is."""
    if turns and _are_texts(turns):
        adapting.layouts[NO_ROLES] += 1
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    return [message for turn in turns for message in _messages(turn, adapting)]


def _messages(turn: Any, adapting: Adapting) -> list[Any]:
    """The messages of one turn, or of a question and its answer."""
    if isinstance(turn, list) and len(turn) == 2 and all(isinstance(each, str | None) for each in turn):
        return _two(*turn)
    if not isinstance(turn, Mapping):
        return [turn]
    flag = next((name for name in _LEARNED if isinstance(turn.get(name), bool)), None)
    if flag is not None and turn.get("weight") is None:
        turn = {**{name: value for name, value in turn.items() if name != flag}, "weight": int(turn[flag])}
    if "role" in turn and "content" in turn:
        return [turn]
    if "role" in turn or "from" in turn:
        return [_named(turn)]
    named = {name.casefold(): value for name, value in turn.items()}
    found = Adapting()
    if pair := pair_of(named, found):
        adapting.changed.update(found.changed)
        adapting.unused.update(
            f"messages.{name}" for name in turn if named.get(name.casefold()) not in (None, "", [], {})
        )
        question, more, answer = (_MOSS.sub("", text) for text in pair)
        return _two("\n\n".join(text for text in (question, more) if text.strip()), answer)
    if len(turn) == 1 and isinstance(content := next(iter(turn.values())), str) and next(iter(turn)) not in _CONTENT:
        return [{"role": next(iter(turn)), "content": content}]
    return [_named(turn)]


def _named(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn with the names `role` and `content`, if it has others for them."""
    fields = dict(turn)
    for name, others in (("role", _ROLE), ("content", _CONTENT)):
        other = next((each for each in others if isinstance(fields.get(each), str)), None)
        if other is not None and fields.get(name) is None:
            fields.pop(name, None)
            fields[name] = fields.pop(other)
    return fields


def _two(question: str, answer: str) -> list[Any]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _are_texts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(each, str) for each in values)
