"""The conversation in a record of any common layout: a list of turns, or columns of a question and its answer."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.types import TURNS, Adapting

ANSWERED_BY: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("prompt", ("completion",)),
    ("question", ("answer", "response", "output")),
    ("query", ("response", "answer", "output")),
    ("instruction", ("output", "response", "completion", "answer")),
    ("prompt", ("response", "output", "answer", "text")),
    ("problem", ("solution", "answer")),
    ("input", ("output", "target", "response")),
    ("inputs", ("targets",)),
    ("human", ("assistant", "gpt", "bot", "moss")),
    ("user", ("assistant", "bot")),
)
"""Columns that ask, and those that may hold the answer. An instruction or a template beside a question is not the question."""
FURTHER: Final = ("input", "context")
"""Columns with what a question is about."""
SYSTEMS: Final = ("system", "system_prompt", "system_message", "meta_instruction")
"""Columns with the system message of a conversation."""
CHOICES: Final = ("choices", "options")
"""Columns with the answers to choose from."""
SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "moss": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "用户": "user",
    "助手": "assistant",
    "系统": "system",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "function_call": "calls",
    "calls": "calls",
    "tools": "tools",
    "observation": "tool",
    "ipython": "tool",
}
"""Roles in ShareGPT, OpenAI and other conversations; those of tools are explained in `tool_turns.py`."""
AS_TEXT: Final = "values that are no text: written as text"
CHOSEN: Final = "answers by the number or letter of a choice: its text"
NO_ROLES: Final = "turns without roles: the user's and the assistant's by turns"
_ROLE: Final = ("role", "from", "speaker", "author")
_CONTENT: Final = ("content", "value", "text", "utterance")
_CONVERSATIONS: Final = ("messages", "conversations", "conversation")
"""Those of `TURNS` whose lists of texts are always turns."""
_LEARNED: Final = ("train", "loss")
"""Flags of a turn that say whether it is learned."""
_LETTER: Final = re.compile(r"[A-Z]|\d+")
_MOSS: Final = re.compile(r"^\s*<\|[^|>]+\|>: ?|<eo[a-z]>\s*$")
_ARRAY: Final = re.compile(r"array\(|['\"]\s+['\"]")
"""What may be a printed NumPy array: Python would join texts that no comma separates."""
_QUOTED: Final = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\.\.\.)"
_PRINTED: Final = re.compile(rf"\s*\[\s*{_QUOTED}(?:\s+{_QUOTED})+\s*\]\s*", re.DOTALL)
"""What Python prints of a NumPy array of texts."""

Fields = dict[str, Any]


def pair_of(fields: Fields, adapting: Adapting, where: str = "") -> tuple[str, str, str] | None:
    """Remove and return a question, what it is about, and the answer, if two columns hold them. Counts the layout.

    Raises `DataError` for the number of a choice that there is not.
    """
    for asked, answers in ANSWERED_BY:
        answer = next((name for name in answers if fields.get(name) is not None), None)
        if answer is None or fields.get(asked) is None:
            continue
        if as_text(fields[asked]) is None or as_text(fields[answer]) is None:
            continue
        more = ""
        used = [asked, answer]
        for name in FURTHER:
            if name not in used and not more.strip() and (text := as_text(fields.get(name))) is not None:
                used += [name] if name in fields else []
                more = text
        question, text = as_text(fields[asked]) or "", as_text(fields[answer]) or ""
        values = [fields[name] for name in used]
        for name in CHOICES:
            choices = structured(fields.get(name))
            offered = _offered(choices)
            if (chosen := _chosen(fields[answer], choices, offered, f"{where}{answer}")) is not None:
                used.append(name)
                more, text = "\n".join(filter(str.strip, (more, *offered.values()))), chosen
                values.remove(fields[answer])
                adapting.changed[CHOSEN] += 1
                break
        alpaca = (asked, answer) == ("instruction", "output")
        name = "Alpaca (instruction, input, output)" if alpaca else ", ".join((asked, *used[2:], answer))
        adapting.layouts[name] += 1
        if any(not isinstance(value, str | None) for value in values):
            adapting.changed[AS_TEXT] += 1
        for name in used:
            del fields[name]
        return question, more, text
    return None


def _offered(choices: Any) -> dict[str, str]:
    """The choices by letter or label: texts in a list or by label, or lists `text` and `label` as in ARC; none of others."""
    if isinstance(choices, Mapping):
        labels, texts = choices.get("label"), choices.get("text")
        both = isinstance(labels, list) and isinstance(texts, list)
        offered = dict(zip(map(str, labels), texts, strict=False)) if both else dict(choices)  # type: ignore[arg-type]
    else:
        values = choices if isinstance(choices, list) else []
        offered = {chr(ord("A") + n): as_text(value) for n, value in enumerate(values)}
    return offered if all(isinstance(each, str) for each in offered.values()) else {}


def _chosen(answer: Any, choices: Any, offered: Mapping[str, str], where: str) -> str | None:
    """The text of the choice that an answer names by its number, from 0 on, or by its letter; None for an answer in words,
    and for columns of another meaning. Raises `DataError` for a number or a letter of no choice."""
    if isinstance(answer, bool | list) or not isinstance(choices, list | Mapping):
        return None
    if answer in (offered.values() if isinstance(answer, str) else choices):
        return None
    name = answer.strip() if isinstance(answer, str) else f"{answer:g}"
    letter = name.upper()
    if name in offered or letter in offered:
        return offered.get(name) or offered[letter]
    if isinstance(choices, list) and letter.isdecimal() and int(letter) < len(offered):
        return list(offered.values())[int(letter)]
    if isinstance(choices, list) and (not isinstance(answer, str) or _LETTER.fullmatch(letter)):
        raise DataError(
            f"the answer {answer!r} is none of the choices",
            where=where,
            hint="number the choices from 0 or letter them from A, and give them as a list of texts",
        )
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


def messages_of(fields: Fields, adapting: Adapting, where: str = "") -> Any:
    """Remove and return the messages of a record, of whatever layout; None if there are none. Counts the layout."""
    for name in TURNS:
        value = structured(fields.get(name))
        if isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
            value = list(value.values())  # {"turn_1": {…}, "turn_2": {…}}
        if name == "messages" and value is not None and not isinstance(value, list):
            return value  # the task names the fault
        if not isinstance(value, list) or (name == "data" and not _are_texts(value) and not _have_roles(value)):
            continue
        bare = not any(isinstance(each, Mapping | list) for each in value)
        if bare and name not in _CONVERSATIONS and (fields.get("prompt") is not None or _pairs(fields)):
            continue  # tags, say
        del fields[name]
        if name != "messages":
            adapting.layouts[f"ShareGPT ({name})" if name.startswith("conversation") else name] += 1
        return spoken(value, adapting)
    if all(isinstance(fields.get(name), list) for name in ("prompt", "completion")):
        adapting.layouts["prompt, completion"] += 1
        return [*fields.pop("prompt"), *fields.pop("completion")]
    pair = pair_of(fields, adapting, where)
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
    """Whether this text is what Python prints of a NumPy array of texts, which cannot be read back."""
    if text.strip()[:1] not in ("[", "{") or structured(text) is not text:
        return False
    place = text.find("array([")
    return _PRINTED.fullmatch(text) is not None or (place >= 0 and text.find("dtype=", place) > place)


def spoken(turns: list[Any], adapting: Adapting) -> list[Any]:
    """Turns as messages: of texts alone, of pairs of a role and its text or of a question and its answer, of one role each,
    or with other names of role and content. What is none of these is returned as it is."""
    if turns and _are_texts(turns):
        adapting.layouts[NO_ROLES] += 1
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    if turns and all(isinstance(turn, list) and len(turn) == 2 and _is_speaker(turn[0]) for turn in turns):
        return [{"role": role, "content": text} for role, text in turns]
    return [message for turn in turns for message in _messages(turn, adapting)]


def _is_speaker(name: Any) -> bool:
    return isinstance(name, str) and name.strip().casefold() in SPEAKERS


def _have_roles(turns: list[Any]) -> bool:
    return bool(turns) and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in turns)


def _pairs(fields: Fields) -> bool:
    """Whether columns hold a question and its answer."""
    return any(
        fields.get(asked) is not None and any(fields.get(name) is not None for name in answers)
        for asked, answers in ANSWERED_BY
    )


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
    named = {name.casefold(): value for name, value in turn.items() if value is not None}
    found = Adapting()
    pair = pair_of(named, found)
    if pair is None and len(named) < len(turn):  # a table of turns with one role each has nulls for the other
        named = {name.casefold(): "" if value is None else value for name, value in turn.items()}
        pair = pair_of(named, found)
    if pair:
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
