"""Find every part by kind and name.

A row holds a name, the import path `module:attribute` and a one-line summary. Reading rows imports nothing; `load`
imports only the requested module. Packages add rows through entry points in the group `llmctl.KIND`. If two packages
claim the same name, an error names both.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llmctl import catalog, other_tools
from llmctl.catalog import VerbRow
from llmctl.errors import EnvironmentFault, Terminated, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KINDS: Final = tuple(catalog.ROWS)
OWNER: Final = "llmctl"


@dataclass(frozen=True, slots=True)
class Entry:
    """A registry row."""

    kind: str
    name: str
    target: str
    summary: str
    owner: str
    aliases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The row as `llmctl list --json` prints it."""
        return {"kind": self.kind, "name": self.name, "summary": self.summary, "owner": self.owner}


class KindTable(NamedTuple):
    """The entries of one kind: by name, and by name or alias."""

    entries: Mapping[str, Entry]
    lookup: Mapping[str, Entry]


@functools.cache
def _plugins() -> Mapping[str, tuple[Entry, ...]]:
    """Rows added by installed packages, by kind. Reads package metadata only."""
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
    """Every verb by name: built in, or added by a package through the entry-point group `llmctl.verbs`.

    Raises `EnvironmentFault` if two packages claim the same name.
    """
    from importlib.metadata import entry_points

    rows = {row.name: row for row in catalog.VERBS}
    for point in entry_points(group="llmctl.verbs"):
        owner, summary = _owner_of(point)
        if point.name in rows:
            raise _clash("verb", point.name, rows[point.name].owner, owner)
        rows[point.name] = VerbRow(point.name, point.value, summary, catalog.ADDED, "stage", owner)
    return rows


def find_verb(name: str | None) -> VerbRow | None:
    """Return the verb called `name`, or None. Looks at other packages only if no built-in verb matches."""
    built_in = next((row for row in catalog.VERBS if row.name == name), None)
    return built_in or (verbs().get(name) if name else None)


def load_target(target: str, what: str, owner: str = OWNER) -> Any:
    """Import `module:attribute`. Raises `EnvironmentFault` if another package's module fails to import, or ends."""
    module, _, attribute = target.partition(":")
    try:
        if owner == OWNER:
            return getattr(importlib.import_module(module), attribute)
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is not our result
            return getattr(importlib.import_module(module), attribute)
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        # Another package's module may raise anything on import; an error in our own module is a bug.
        if owner == OWNER:
            raise
        problem = f"it calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{error}"
        raise EnvironmentFault(
            f"cannot load {what} of package {owner} from {target}: {problem or type(error).__name__}",
            hint=f"pip install --upgrade {owner}",
        ) from error


def load_verb(row: VerbRow) -> Any:
    """Import the row's target: a `Verb` instance or a command-line `Page`."""
    found = load_target(row.target, f"verb {row.name!r}", row.owner)
    return found() if isinstance(found, type) else found


@functools.cache
def table(kind: str) -> KindTable:
    """Every entry of `kind`, built in or added. Raises `UsageError` for an unknown kind, `EnvironmentFault` if two packages
    claim the same name.
    """
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
    return KindTable(entries, lookup)


def entries(kind: str | None = None) -> list[Entry]:
    """All entries, or those of one kind, in catalog order."""
    return [entry for each in ([kind] if kind else KINDS) for entry in table(each).entries.values()]


def kind_named(word: str) -> str:
    """Return the kind that `word` names, singular or plural. Raises `UsageError` with the closest match."""
    plural = word.lower().replace(" ", "").replace("-", "")
    for kind in KINDS:
        if plural in (kind, kind.removesuffix("s")) or (kind == "datasets" and plural == "data"):
            return kind
    raise UsageError(f"no such kind {word!r}", hint=near(word, KINDS) or f"kinds: {', '.join(KINDS)}")


def kinds_with(name: str) -> list[str]:
    """The kinds that have an entry called `name`; a size after a colon is ignored."""
    name = name.partition(":")[0]
    return [kind for kind in KINDS if name in table(kind).lookup]


def find(kind: str, name: str) -> Entry:
    """Return the entry with that name or alias. Raises `UsageError` with the closest matches."""
    rows = table(kind)
    if name in rows.lookup:
        return rows.lookup[name]
    if kind == "metrics":  # papers write BLEU, EM and Macro-F1
        plain = name.lower().replace("-", "_")
        same = [entry for known, entry in rows.lookup.items() if known.lower() == plain]
        if len(same) == 1:
            return same[0]
    raise UsageError(f"no {singular(kind)} named {name!r}", hint=near(name, rows.lookup) or f"see: llmctl list {kind}")


def load(kind: str, name: str) -> Any:
    """Import and return the part called `name`. Raises `EnvironmentFault` if a package's part is of another type."""
    entry = find(kind, name)
    what = f"{singular(kind)} {name!r}"
    part = load_target(entry.target, what, entry.owner)
    if entry.owner == OWNER:
        return part
    target, wanted = catalog.TYPES[kind]
    kind_of = load_target(target, what)
    if not (isinstance(part, type) and issubclass(part, kind_of) if kind == "tasks" else isinstance(part, kind_of)):
        raise EnvironmentFault(
            f"{what} of package {entry.owner} is not {wanted}: {entry.target} is {type(part).__name__}",
            hint=f"pip install --upgrade {entry.owner}",
        )
    return part


def _clash(kind: str, name: str, one: str, other: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{kind} {name!r} is claimed by both {one} and {other}", hint=f"uninstall one of them: pip uninstall {other}"
    )


def _owner_of(point: EntryPoint) -> tuple[str, str]:
    """Name and summary of the package that provides an entry point."""
    owner = point.dist.name if point.dist else "an unnamed package"
    return owner, (point.dist.metadata["Summary"] if point.dist else None) or ""


def looks_like_path(name: str) -> bool:
    """Whether `name` is a path rather than a registry name: it looks like one, or it exists on disk."""
    return os.sep in name or name.startswith((".", "~")) or os.path.exists(name)


def near(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean 'x'?` for the closest matches among `known`, or None."""
    return _meant(_close(word, known))


def near_verb(word: str, known: Iterable[str]) -> str | None:
    """A hint for a word that is no verb: the verb for what other tools call so, or a close spelling of a known one.

    Verbs are short, so half the letters of a word are not enough: `serve` is not `merge`.
    """
    close = difflib.get_close_matches(word.lower(), list(known), n=2, cutoff=0.7)
    return other_tools.verb_for(word) or _meant(close)


def near_path(path: Path, *names: str, pattern: str = "*") -> str | None:
    """`near` among the files next to `path` that match `pattern`, and `names` as further candidates in that folder."""
    beside = sorted(each.name for each in path.parent.glob(pattern)) if path.parent.is_dir() else []
    close = _close(path.name, [*names, *beside])
    return _meant(str(path.parent / each) for each in close if each != path.name)  # a link that leads nowhere


def near_hub(path: Path) -> str | None:
    """A hint for a missing folder that is spelled as a name on the Hugging Face hub, `OWNER/NAME`."""
    if path.is_absolute() or len(path.parts) != 2 or path.parts[0].startswith((".", "~")) or path.parent.exists():
        return None
    return f"if it is a model of the Hugging Face hub: hf:{path}"


def _close(word: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word.lower(), list(known), n=2, cutoff=0.6)


def _meant(names: Iterable[str]) -> str | None:
    shown = " or ".join(map(repr, names))
    return f"did you mean {shown}?" if shown else None


def singular(kind: str) -> str:
    """The singular of a kind: `models` -> `model`, `datasets` -> `data set`."""
    return {"datasets": "data set"}.get(kind, kind.removesuffix("s"))
