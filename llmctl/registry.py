"""One mechanism that finds every part by its kind and name.

A row is a name, the string `module:attribute` that leads to the part, and one line about it. Reading rows imports
nothing; `load` imports the one module asked for. Packages add rows through entry points in the group
`llmctl.KIND`; two owners of one name are refused, naming both.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llmctl import catalog
from llmctl.catalog import VerbRow
from llmctl.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KINDS: Final = tuple(catalog.ROWS)
OWNER: Final = "llmctl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the registry."""

    kind: str
    name: str
    target: str
    summary: str
    owner: str
    aliases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The row as `list` gives it."""
        return {"kind": self.kind, "name": self.name, "summary": self.summary, "owner": self.owner}


class Table(NamedTuple):
    """All entries of one kind: by name, and by name or alias."""

    entries: Mapping[str, Entry]
    lookup: Mapping[str, Entry]


@functools.cache
def _plugins() -> Mapping[str, tuple[Entry, ...]]:
    """Rows that installed packages add, by kind. Reads package metadata only."""
    from importlib.metadata import entry_points

    found: dict[str, list[Entry]] = {}
    points = entry_points()
    for kind in KINDS:
        for point in points.select(group=f"llmctl.{kind}"):
            owner, summary = _owner_of(point)
            found.setdefault(kind, []).append(Entry(kind, point.name, point.value, summary, owner))
    return {kind: tuple(rows) for kind, rows in found.items()}


@functools.cache
def verbs() -> Mapping[str, VerbRow]:
    """Every verb by name, built in and added by packages (entry points of the group `llmctl.verbs`).

    Raises `EnvironmentFault` where two owners claim a name.
    """
    from importlib.metadata import entry_points

    rows = {row.name: row for row in catalog.VERBS}
    owners = dict.fromkeys(rows, OWNER)
    for point in entry_points(group="llmctl.verbs"):
        owner, summary = _owner_of(point)
        if point.name in rows:
            raise _clash("verb", point.name, owners[point.name], owner)
        rows[point.name] = VerbRow(point.name, point.value, summary, catalog.ADDED, "stage")
        owners[point.name] = owner
    return rows


def find_verb(name: str | None) -> VerbRow | None:
    """The verb of that name; packages are looked at only where none is built in."""
    built_in = next((row for row in catalog.VERBS if row.name == name), None)
    return built_in or (verbs().get(name) if name else None)


def load_target(target: str, what: str, owner: str = OWNER) -> Any:
    """Import `module:attribute`. Raises `EnvironmentFault` where a package's own module cannot be imported."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        # Another package's module may raise anything as it is imported; what is ours is a bug of ours.
        if owner == OWNER:
            raise
        raise EnvironmentFault(
            f"{what} of the package {owner} cannot be loaded from {target}: {error}",
            hint=f"pip install --upgrade {owner}",
        ) from error


def load_verb(row: VerbRow) -> Any:
    """What the row leads to: a `Verb`, or a page of the command line."""
    owner = OWNER if row.panel != catalog.ADDED else row.target.partition(".")[0]
    found = load_target(row.target, f"verb {row.name!r}", owner)
    return found() if isinstance(found, type) else found


@functools.cache
def table(kind: str) -> Table:
    """Every entry of `kind`, built in and added. Raises `UsageError` where two owners claim a name."""
    if kind not in KINDS:
        raise UsageError(f"no such kind {kind!r}", hint=near(kind, KINDS) or f"kinds: {', '.join(KINDS)}")
    built_in = (Entry(kind, row.name, row.target, row.summary, OWNER, row.aliases) for row in catalog.ROWS[kind])
    entries: dict[str, Entry] = {}
    lookup: dict[str, Entry] = {}
    for entry in (*built_in, *_plugins().get(kind, ())):
        for name in (entry.name, *entry.aliases):
            if name in lookup:
                raise _clash(kind, name, lookup[name].owner, entry.owner)
            lookup[name] = entry
        entries[entry.name] = entry
    return Table(entries, lookup)


def entries(kind: str | None = None) -> list[Entry]:
    """All entries, or those of one kind, in the catalog's order."""
    return [entry for each in ([kind] if kind else KINDS) for entry in table(each).entries.values()]


def kind_named(word: str) -> str:
    """The kind that a person means: `models`, `model`. Raises `UsageError` with the nearest."""
    plural = word.lower().replace(" ", "").replace("-", "")
    for kind in KINDS:
        if plural in (kind, kind.removesuffix("s")) or (kind == "datasets" and plural == "data"):
            return kind
    raise UsageError(f"no such kind {word!r}", hint=near(word, KINDS) or f"kinds: {', '.join(KINDS)}")


def kinds_with(name: str) -> list[str]:
    """The kinds that have something of that name."""
    name = name.partition(":")[0]
    return [kind for kind in KINDS if name in table(kind).lookup]


def find(kind: str, name: str) -> Entry:
    """The entry of that name or alias. Raises `UsageError` with the nearest names."""
    rows = table(kind)
    if name in rows.lookup:
        return rows.lookup[name]
    raise UsageError(f"no {singular(kind)} named {name!r}", hint=near(name, rows.lookup) or f"see: llmctl list {kind}")


def load(kind: str, name: str) -> Any:
    """Import and return the part of that name."""
    entry = find(kind, name)
    return load_target(entry.target, f"{singular(kind)} {name!r}", entry.owner)


def _clash(kind: str, name: str, one: str, other: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{kind} {name!r} is claimed by both {one} and {other}", hint=f"uninstall one of them: pip uninstall {other}"
    )


def _owner_of(point: EntryPoint) -> tuple[str, str]:
    """The package that an entry point belongs to, and its summary."""
    owner = point.dist.name if point.dist else "an unnamed package"
    return owner, (point.dist.metadata["Summary"] if point.dist else None) or ""


def looks_like_path(name: str) -> bool:
    """Whether a name can only be, or is, a place on disk, and so none of the registry's."""
    return os.sep in name or name.startswith((".", "~")) or os.path.exists(name)


def near(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?` where something is near enough, else nothing."""
    return _meant(_close(word, known))


def near_path(path: Path, *names: str, pattern: str = "*") -> str | None:
    """`near` among what lies in the folder of `path`, and `names`, which stand for things in that folder."""
    beside = sorted(each.name for each in path.parent.glob(pattern)) if path.parent.is_dir() else []
    return _meant(str(path.parent / each) for each in _close(path.name, [*names, *beside]))


def _close(word: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word.lower(), list(known), n=2, cutoff=0.6)


def _meant(names: Iterable[str]) -> str | None:
    shown = " or ".join(map(repr, names))
    return f"did you mean {shown}?" if shown else None


def singular(kind: str) -> str:
    """The word for one of that kind: `models` -> `model`, `datasets` -> `data set`."""
    return {"datasets": "data set"}.get(kind, kind.removesuffix("s"))
