"""Tools in conversations: what is on offer, calls of the assistant, and answers, as turns that hold text alone.

{role: tools, content}   JSON: the list of definitions, each as in OpenAI's interface; the first turn
{role: calls, content}   JSON: the list of calls [{id, name, arguments}] that the assistant makes, after its text if any
{role: tool, content}    the answer to a call, in the order of the calls
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.types import Adapting

Turn = dict[str, Any]

DEEPEST: Final = 64
"""Levels of JSON in calls and definitions."""
NULLS: Final = "nulls in calls and definitions of tools: left out"
"""Columns of Parquet give every object all keys."""


def offered(fields: dict[str, Any], adapting: Adapting, where: str) -> list[Turn]:
    """Remove the tools on offer from the fields of a record; returns them as a turn, if there are any."""
    for name in ("tools", "functions"):
        if fields.get(name) and (found := _parsed(fields[name], f"{where}{name}")):
            del fields[name]
            return [{"role": "tools", "content": _definitions(found, adapting, f"{where}{name}")}]
    return []


def turn_of(turn: Mapping[str, Any], role: str, content: Any, adapting: Adapting, where: str) -> Turn:
    """A turn of a tool, or the calls of a turn of the assistant. Raises `DataError` for what is no call."""
    if role == "tools":
        return {"role": role, "content": _definitions(_parsed(content, where), adapting, where)}
    if role == "tool":
        text = content if isinstance(content, str) else "" if content is None else _checked(content, where)
        given = turn.get("tool_call_id")
        return {"role": role, "content": text, "tool_call_id": given if isinstance(given, str) else None}
    found = turn.get("tool_calls") or turn.get("function_call") or content
    calls = [_call(each, adapting, where) for each in _several(_parsed(found, where))]
    if not calls:
        raise DataError("the turn has no call", where=where)
    return {"role": "calls", "content": _checked(calls, where)}


def in_order_of_calls(turns: list[Any]) -> int:
    """Name the calls that have no id, and put the answers of tools in the order of their calls, in place. Returns the number
    of answers that moved. Afterwards the answers have no ids: their order says what they answer."""
    moved = number = 0
    for place, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or turn.get("role") != "calls":
            continue
        calls = json.loads(turn["content"])
        for call in calls:
            call["id"] = call["id"] or f"call{number:05d}"  # nine letters and digits, as Mistral's templates ask for
            number += 1
        turns[place] = {**turn, "content": _json(calls)}
        end = place + 1 + sum(1 for _ in _answers(turns, place + 1))
        answers = turns[place + 1 : end]
        ids, asked = [each["tool_call_id"] for each in answers], [call["id"] for call in calls]
        if ids != asked and len(set(ids)) == len(ids) and set(ids) == set(asked):
            turns[place + 1 : end] = sorted(answers, key=lambda each: asked.index(each["tool_call_id"]))
            moved += sum(one != other for one, other in zip(ids, asked, strict=True))
    for turn in turns:
        if isinstance(turn, dict):
            turn.pop("tool_call_id", None)
    return moved


def _answers(turns: list[Any], place: int) -> Iterator[Any]:
    for turn in turns[place:]:
        if not isinstance(turn, Mapping) or turn.get("role") != "tool":
            return
        yield turn


def _definitions(value: Any, adapting: Adapting, where: str) -> str:
    definitions = _several(value)
    for each in definitions:
        inner = each.get("function", each) if isinstance(each, Mapping) else None
        name = inner.get("name", "") if isinstance(inner, Mapping) else None
        if not isinstance(name, str) or not ({"type", "function", "name"} & each.keys()):
            hint = 'write {"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
            raise DataError("the definition of a tool names no function", where=where, hint=hint)
    return _checked(_without_nulls(definitions, adapting), where)


def _call(value: Any, adapting: Adapting, where: str) -> dict[str, Any]:
    outer = value if isinstance(value, Mapping) else {}
    inner = outer.get("function") or outer
    inner = inner if isinstance(inner, Mapping) else {}
    name = inner.get("name")
    if not isinstance(name, str) or not name:
        raise DataError("the call of a tool has no name", where=where, hint='write {"name": ..., "arguments": {...}}')
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise DataError(f"the arguments of the call of {name!r} are not valid JSON", where=where) from None
    else:
        arguments = _without_nulls(arguments, adapting)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise DataError(f"the arguments of the call of {name!r} are not an object", where=where)
    id = outer.get("id")
    return {"id": id if isinstance(id, str) else "", "name": name, "arguments": arguments or {}}


def _without_nulls(value: Any, adapting: Adapting) -> Any:
    """The value without keys that hold null, counted once."""
    if not _has_nulls(value):
        return value
    adapting.changed[NULLS] += 1
    return _full(value)


def _has_nulls(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_nulls, value))
    return isinstance(value, Mapping) and any(each is None or _has_nulls(each) for each in value.values())


def _full(value: Any) -> Any:
    if isinstance(value, list):
        return [_full(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _full(each) for name, each in value.items() if each is not None}
    return value


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError("the calls or definitions of tools are not valid JSON", where=where) from None


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _checked(value: Any, where: str) -> str:
    """The value as JSON. Raises `DataError` for one that is nested too deeply, unpaired surrogates, NaN and infinity."""
    try:
        if _is_deeper(value, DEEPEST):
            raise DataError(f"calls or definitions of tools are nested more than {DEEPEST} deep", where=where)
        text = _json(value)
        text.encode()
    except UnicodeEncodeError:
        raise DataError("calls or definitions of tools contain an unpaired surrogate", where=where) from None
    except ValueError:
        raise DataError(
            "calls or definitions of tools contain NaN or infinity, which are not JSON", where=where
        ) from None
    return text


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
