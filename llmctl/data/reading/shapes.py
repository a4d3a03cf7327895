"""Records in a JSON object that is no record: a table by columns or by rows, as pandas writes it, or records by their ids."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

_SPLIT: Final = {"columns", "index", "data", "index_names", "column_names"}


class Unfolded(NamedTuple):
    """The records of an object, and what it is."""

    what: str
    records: list[dict[str, Any]]


def unfolded(value: Mapping[str, Any], columns: Collection[str], fields: Collection[str]) -> Unfolded | None:
    """The records that an object holds; None if it is a record itself.

    `columns`: the columns that a record needs; `fields`: those and others by which a record is known.
    """
    members = list(value.values())
    names, data = value.get("columns"), value.get("data")
    if value.keys() <= _SPLIT and isinstance(names, list) and isinstance(data, list):
        if all(isinstance(row, list) and len(row) == len(names) for row in data):
            return Unfolded("a list of columns and one of rows", [dict(zip(names, row, strict=True)) for row in data])
    elif members and all(isinstance(each, Mapping) for each in members):
        alike = bool(members[0]) and all(each.keys() == members[0].keys() for each in members)
        if not value.keys().isdisjoint(columns) or (alike and _are_numbers(members[0])):
            if alike:
                rows = [{name: column[key] for name, column in value.items()} for key in members[0]]
                return Unfolded("columns, each an object of rows", rows)
        elif (alike and _are_numbers(value)) or all(not each.keys().isdisjoint(fields) for each in members):
            # The numbers of rows are no ids: another file has the same ones.
            rows = [each if key.isdecimal() else {"id": key, **each} for key, each in value.items()]
            return Unfolded("an object of records", rows)
    elif members and all(isinstance(each, list) for each in members) and not value.keys().isdisjoint(columns):
        alike = len({len(each) for each in members}) == 1
        if alike and not any(isinstance(each, Mapping) for each in itertools.chain(*members)):
            rows = [dict(zip(value, row, strict=True)) for row in zip(*members, strict=True)]
            return Unfolded("columns, each a list", rows)
    return None


def _are_numbers(names: Collection[str]) -> bool:
    return all(name.isdecimal() for name in names)
