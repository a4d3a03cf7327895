"""Common layouts of preference pairs, brought into the task's own: a conversation and two answers to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.tasks.dialogues import Fields
from llmctl.tasks.layouts import UNLEARNED, conversation
from llmctl.types import Adapting

ANSWERS: Final = ("chosen", "rejected")
_QUESTIONS: Final = ("prompt", "question", "query", "instruction")
"""Columns that hold a prompt as text."""
_CONVERSATIONS: Final = ("prompt", "messages", "conversations")
"""Columns that hold a prompt as a list of messages."""
_SPEAKER: Final = re.compile(r"\n\n(Human|Assistant): ?")
_SPOKEN: Final = re.compile(r"\s*Human: ?")

Messages = list[dict[str, Any]]


def pair(fields: Mapping[str, Any], adapting: Adapting, where: str) -> Fields:
    """The fields of a record of the task `preference`.

    Reads `prompt` as text or as messages (also `question`, `query`, `instruction` with `input`, `messages`,
    `conversations`), a column `system`, and answers as text, as one message, or as a conversation that begins with the
    prompt. Without a prompt, the answers must be conversations, as messages or as text with `Human:` and `Assistant:`;
    what they have in common is the prompt.

    Raises `DataError` for answers of several turns, or that do not begin with the prompt.
    """
    found = dict(fields)
    before, prompt = dict(found), _prompt(found, adapting, where)
    if any(found.get(name) is None for name in ANSWERS):  # a prompt to answer, or a fault that the task names
        return found if prompt is None else {**found, "prompt": prompt}
    sides = [_messages(found[name], adapting, f"{where}{name}") for name in ANSWERS]
    if prompt is None and any(side is None for side in sides):
        return before
    answers = [
        [{"role": "assistant", "content": found[name]}] if side is None else side
        for name, side in zip(ANSWERS, sides, strict=True)
    ]
    if prompt is None:
        adapting.layouts["conversations that end in the answers"] += 1
        prompt = _common(*answers)
    for name, answer in zip(ANSWERS, answers, strict=True):
        rest = answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
        if len(rest) == len(answer) > 1 and answer[: len(prompt)] == [
            each for each in prompt if each["role"] != "system"
        ]:
            rest = answer[len(prompt) - 1 :]
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            raise DataError(
                f"the answer has {len(rest)} turns beside the prompt, expected one of the assistant",
                where=f"{where}{name}",
            )
        found[name] = rest[0]["content"]
    system = found.pop("system", None)
    if isinstance(system, str) and system.strip() and not any(each["role"] == "system" for each in prompt):
        adapting.layouts["system in a column"] += 1
        prompt = [{"role": "system", "content": system}, *prompt]
    found["prompt"] = prompt
    return found


def _prompt(fields: Fields, adapting: Adapting, where: str) -> Messages | None:
    """Remove and return the prompt; None if it is part of the answers."""
    for name in _CONVERSATIONS:
        if isinstance(fields.get(name), list):
            if name != "prompt":
                adapting.layouts[f"the prompt in {name}"] += 1
            return _turns(fields.pop(name), adapting, f"{where}{name}")
    for name in _QUESTIONS:
        text = fields.get(name)
        if isinstance(text, str):
            del fields[name]
            more = fields.pop("input", None) if name == "instruction" else None
            adapting.layouts[f"{name} as text"] += 1
            if isinstance(more, str) and more.strip():
                text = f"{text}\n\n{more}"
            return [{"role": "user", "content": text}]
    return None


def _messages(value: Any, adapting: Adapting, where: str) -> Messages | None:
    """An answer as messages; None if it is text alone."""
    if isinstance(value, Mapping):
        return _turns([value], adapting, where)
    if isinstance(value, list):
        return _turns(value, adapting, where)
    if isinstance(value, str) and _SPOKEN.match(value):
        parts = _SPEAKER.split("\n\n" + value.lstrip())
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[speaker], "content": text.strip()}
            for speaker, text in zip(parts[1::2], parts[2::2], strict=True)
        ]
    return None


def _turns(messages: list[Any], adapting: Adapting, where: str) -> Messages:
    """Messages in the names of the task `chat`."""
    counted = Adapting(tool_calls="drop" if adapting.tool_calls == "drop" else "fail")
    turns = conversation({"messages": messages}, counted, f"{where}:")["messages"]
    for counts in (counted.changed, counted.turns):
        del counts[UNLEARNED]  # the question that the two answers are to
    adapting.changed.update(counted.changed)
    adapting.turns.update(counted.turns)
    adapting.unused.update(counted.unused)
    for number, each in enumerate(turns):
        if not isinstance(each, Mapping):
            raise DataError(f"the message is {type(each).__name__}, expected an object", where=f"{where}[{number}]")
    return [{"role": each["role"], "content": each["content"]} for each in turns]


def _common(one: Messages, other: Messages) -> Messages:
    """The turns that both conversations begin with, without the last turn of either."""
    count = 0
    while count < min(len(one), len(other)) - 1 and one[count] == other[count]:
        count += 1
    return one[:count]
