"""Common layouts of conversations and labels, recognised by their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from unicodedata import category

from llmctl.errors import DataError
from llmctl.tasks import tool_turns
from llmctl.tasks.dialogues import SPEAKERS, SYSTEMS, Fields, messages_of
from llmctl.types import TOOL_JSON, TOOL_ROLES, Adapting, Role

ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant")
ANSWERS: Final[tuple[Role, ...]] = ("assistant", "calls")
"""Roles of what the assistant writes."""
JOINED: Final = "content in parts: joined"
DROPPED: Final = "turns and calls of tools: left out"
UNLEARNED: Final = "turns after the last answer: not in the loss"
UNSEEN: Final = ("Cc", "Cf")
"""Categories of characters that show nothing: control characters, which cleaning removes, and marks of format."""
_TURN: Final = frozenset(("role", "from", "content", "value", "weight", "tool_calls", "function_call"))
_TOOL_TURN: Final = _TURN | {"tool_call_id", "name"}
_PLAIN: Final = {"role", "content"}
_BESIDE: Final = (*SYSTEMS, "tools", "functions")
"""Columns that a conversation is completed from."""


# ---------------------------------------------------------------------------------------------------------------
# Conversations


def conversation(fields: Mapping[str, Any], adapting: Adapting, where: str) -> Fields:
    """The fields of a record of the task `chat`. Raises `DataError` for content that is no text, and for tools if they are
    to be refused."""
    found = dict(fields)
    if _is_plain(found):
        return found
    messages = messages_of(found, adapting, where)
    if not isinstance(messages, list):
        return found
    for name in SYSTEMS:
        system, first = found.get(name), messages[0] if messages else None
        if not system or not str(system).strip() or (isinstance(first, Mapping) and first.get("content") == system):
            found.pop(name, None)
        elif isinstance(system, str) and _role(first) != "system":
            adapting.layouts["system in a column"] += 1
            messages = [{"role": "system", "content": found.pop(name)}, *messages]
    turns = _turns(messages, adapting, where)
    if adapting.tool_calls == "template":
        turns = [*tool_turns.offered(found, adapting, where), *turns]
        if any(_role(turn) in TOOL_ROLES for turn in turns):
            adapting.layouts["tools and their calls"] += 1
    found["messages"] = turns
    return found


def _is_plain(fields: Fields) -> bool:
    """Whether a conversation has the task's own layout and nothing to change or to count, as most have."""
    messages = fields.get("messages")
    return (
        isinstance(messages, list)
        and bool(messages)
        and fields.keys().isdisjoint(_BESIDE)
        and all(
            isinstance(turn, dict)
            and turn.keys() == _PLAIN
            and turn["role"] in ROLES
            and isinstance(turn["content"], str)
            and (turn["content"][:1].isalnum() or not _is_empty(turn))
            for turn in messages
        )
        and messages[-1]["role"] == "assistant"
    )


def _role(turn: Any) -> Any:
    if not isinstance(turn, Mapping):
        return None
    name = turn.get("role", turn.get("from"))
    return SPEAKERS.get(name.strip().casefold(), name) if isinstance(name, str) else name


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
                "the conversation uses tools, which only a chat template that knows them expresses",
                where=place,
                hint="preprocess with such a tokenizer and --set tool_calls=template, the default,"
                " or leave the calls and the turns of tools out: --set tool_calls=drop",
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
                changed[DROPPED] += 1
            if role not in TOOL_ROLES and isinstance(content, str) and content.strip():
                turns.append({"role": role, "content": content, **weight})
            if adapting.tool_calls == "template":
                turns.append({**tool_turns.turn_of(turn, role, content, adapting, place), **weight})
            continue
        turns.append({"role": role, "content": content, **weight})
    changed["answers of tools: put in the order of their calls"] = tool_turns.in_order_of_calls(turns)
    kept = [turn for turn in turns if not _is_empty(turn)]
    answers = [number for number, turn in enumerate(kept) if _role(turn) in ANSWERS]
    if answers:
        changed["empty turns: left out"] = len(turns) - len(kept)
        changed[UNLEARNED] = len(kept) - 1 - answers[-1]
        turns = kept
    elif changed[DROPPED]:
        turns.append({"role": "assistant", "content": ""})  # dropped as `empty`
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
# Labels


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
