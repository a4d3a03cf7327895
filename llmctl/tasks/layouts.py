"""Common layouts of chat, instruction and question-answering data, recognised by their columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from unicodedata import category

from llmctl.errors import DataError
from llmctl.tasks import tool_turns
from llmctl.types import TOOL_JSON, TOOL_ROLES, Adapting

SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
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
PAIRS: Final = (("prompt", "completion"), ("prompt", "response"), ("query", "response"), ("question", "answer"))
"""Columns of a question and its answer."""
JOINED: Final = "content in parts: joined"
UNLEARNED: Final = "turns after the last answer: not in the loss"
UNSEEN: Final = ("Cc", "Cf")
"""Categories of characters that show nothing: control characters, which cleaning removes, and marks of format."""
_TURN: Final = frozenset(("role", "from", "content", "value", "weight", "tool_calls", "function_call"))
_TOOL_TURN: Final = _TURN | {"tool_call_id", "name"}

Fields = dict[str, Any]


def pair_of(fields: Fields) -> tuple[str, str, str] | None:
    """Remove and return a question, a further input and an answer, in the layout of Alpaca or `PAIRS`, if there is one."""
    if isinstance(fields.get("instruction"), str) and isinstance(fields.get("output"), str):
        more = fields.pop("input", None)
        return fields.pop("instruction"), more if isinstance(more, str) else "", fields.pop("output")
    for asked, answer in PAIRS:
        if isinstance(fields.get(asked), str) and isinstance(fields.get(answer), str):
            return fields.pop(asked), "", fields.pop(answer)
    return None


def layout_name(fields: Mapping[str, Any]) -> str:
    """The name of the layout that `pair_of` would find."""
    if "instruction" in fields and "output" in fields:
        return "Alpaca (instruction, input, output)"
    return next((", ".join(pair) for pair in PAIRS if all(name in fields for name in pair)), "")


# ---------------------------------------------------------------------------------------------------------------
# Conversations


def conversation(fields: Mapping[str, Any], adapting: Adapting, where: str) -> Fields:
    """The fields of a record of the task `chat`. Raises `DataError` for content that is no text, and for tools if they are
    to be refused."""
    found = dict(fields)
    messages = _messages(found, adapting)
    if not isinstance(messages, list):
        return found
    system = found.pop("system", None) or found.pop("system_prompt", None)
    if isinstance(system, str) and system and _role(messages[0] if messages else None) != "system":
        adapting.layouts["system in a column"] += 1
        messages = [{"role": "system", "content": system}, *messages]
    turns = _turns(messages, adapting, where)
    if adapting.tool_calls == "template":
        turns = [*tool_turns.offered(found, where), *turns]
        if any(_role(turn) in TOOL_ROLES for turn in turns):
            adapting.layouts["tools and their calls"] += 1
    found["messages"] = turns
    return found


def _messages(fields: Fields, adapting: Adapting) -> Any:
    messages = fields.get("messages")
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = _parsed(messages)
    if messages is not None:
        return messages
    for name in ("conversations", "conversation"):
        if isinstance(fields.get(name), list):
            adapting.layouts[f"ShareGPT ({name})"] += 1
            return fields.pop(name)
    if all(isinstance(fields.get(name), list) for name in ("prompt", "completion")):
        adapting.layouts["prompt, completion"] += 1
        return [*fields.pop("prompt"), *fields.pop("completion")]
    name = layout_name(fields)
    pair = pair_of(fields)
    if pair is None:
        return None
    adapting.layouts[name] += 1
    question, more, answer = pair
    history = fields.pop("history", None)
    past = [each for each in history if isinstance(each, list) and len(each) == 2] if isinstance(history, list) else []
    turns = [*past, [f"{question}\n\n{more}" if more.strip() else question, answer]]
    return [
        {"role": role, "content": text}
        for each in turns
        for role, text in zip(("user", "assistant"), each, strict=True)
    ]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _role(turn: Any) -> Any:
    if not isinstance(turn, Mapping):
        return None
    name = turn.get("role", turn.get("from"))
    return SPEAKERS.get(name, name) if isinstance(name, str) else name


def _turns(messages: list[Any], adapting: Adapting, where: str) -> list[Any]:
    turns: list[Any] = []
    changed: Counter[str] = Counter()
    for number, turn in enumerate(messages):
        if not isinstance(turn, Mapping):
            turns.append(turn)  # the task names the fault
            continue
        place, role = f"{where}messages[{number}]", _role(turn)
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list) and role not in TOOL_JSON:
            content = _text_of_parts(content, place)
            changed[JOINED] += 1
        calls = role == "calls" or turn.get("tool_calls") or turn.get("function_call")
        if (role in TOOL_ROLES or calls) and adapting.tool_calls == "fail":
            raise DataError(
                "the conversation uses tools, which the prompt formats do not express",
                where=place,
                hint="use a tokenizer whose chat template knows tools, or leave the calls and the turns of tools out;"
                " preprocess does so: --set tool_calls=drop",
            )
        known = _TOOL_TURN if role == "tool" else _TURN
        unused = {
            f"messages.{name}" for name, value in turn.items() if name not in known and value not in (None, [], {})
        }
        adapting.unused.update(unused)
        weight = {} if turn.get("weight") is None else {"weight": _weight(turn["weight"], place)}
        if weight.get("weight") == 0 and role == "assistant":
            changed["weight 0: turns not in the loss"] += 1
        if role in TOOL_ROLES or calls:
            if adapting.tool_calls == "drop":
                changed["turns and calls of tools: left out"] += 1
            if role not in TOOL_ROLES and isinstance(content, str) and content.strip():
                turns.append({"role": role, "content": content, **weight})
            if adapting.tool_calls == "template":
                turns.append({**tool_turns.turn_of(turn, role, content, place), **weight})
            continue
        turns.append({"role": role, "content": content, **weight})
    changed["answers of tools: put in the order of their calls"] = tool_turns.in_order_of_calls(turns)
    kept = [turn for turn in turns if not _is_empty(turn)]
    answers = [number for number, turn in enumerate(kept) if _role(turn) in ("assistant", "calls")]
    if answers:
        changed["empty turns: left out"] = len(turns) - len(kept)
        changed[UNLEARNED] = len(kept) - 1 - answers[-1]
        turns = kept
    adapting.changed.update(name for name, count in changed.items() if count)
    del changed[JOINED]
    adapting.turns.update(+changed)
    return turns


def _is_empty(turn: Any) -> bool:
    """A turn without text; a system message may be empty, and what a tool answers."""
    if not isinstance(turn, Mapping) or turn["role"] in ("system", "tool"):
        return False
    text = turn["content"]
    return text is None or (isinstance(text, str) and all(each.isspace() or category(each) in UNSEEN for each in text))


def _text_of_parts(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise DataError(f"the content has a part of the type {kind!r}; only text is read", where=where)
        texts.append(text)
    return "".join(texts)


def _weight(value: Any, where: str) -> int:
    if value not in (0, 1):
        raise DataError(f"the weight is {value!r}, expected 0 or 1", where=where)
    return int(value)


# ---------------------------------------------------------------------------------------------------------------
# Questions and labels


def question(fields: Mapping[str, Any], adapting: Adapting) -> Fields:
    """The fields of a record of the task `question-answering`."""
    found = dict(fields)
    if "answers" not in found:
        answer = found.get("answer")
        if "question" in found and (isinstance(answer, list) or (isinstance(answer, str) and answer.startswith("["))):
            found["answers"] = found.pop("answer")
        else:
            name = layout_name(found)
            if pair := pair_of(found):
                adapting.layouts[name] += 1
                asked, more, answer = pair
                found |= {"question": asked, "answers": [answer]} | ({"context": more} if more.strip() else {})
    found.pop("is_impossible", None)
    answers = found.get("answers")
    if isinstance(answers, str):
        parsed = _parsed(answers) if answers.lstrip().startswith("[") else answers
        several = isinstance(parsed, list)
        adapting.layouts["answers as JSON in a text" if several else "one answer as text"] += 1
        answers = parsed if several else [answers]
    squad = False
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), list):
        adapting.layouts["SQuAD (answers.text)"] += 1
        answers, squad = list(answers["text"]), True
    elif isinstance(answers, list) and any(isinstance(each, Mapping) for each in answers):
        answers = [each.get("text") if isinstance(each, Mapping) else each for each in answers]
        squad = True
    if isinstance(answers, list):
        found["answers"] = _answers(answers, adapting, squad=squad or "is_impossible" in fields)
    return found


def _answers(answers: list[Any], adapting: Adapting, *, squad: bool) -> list[Any]:
    if not answers and squad:
        adapting.changed["questions without an answer: dropped"] += 1
        return [""]  # dropped as `empty`
    full = [each for each in answers if not (isinstance(each, str) and not each.strip())]
    if len(full) < len(answers) and full:
        adapting.changed["empty answers: left out"] += 1
        return full
    return answers


def label(fields: Mapping[str, Any], name: str, adapting: Adapting) -> Mapping[str, Any]:
    """The fields with a label as text: whole numbers and truth values are labels too."""
    value = fields.get(name)
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        text = str(int(value))
    else:
        return fields
    adapting.changed["labels that are no text: written as text"] += 1
    return {**fields, name: text}
