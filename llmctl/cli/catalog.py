"""`llmctl list` and `llmctl show`: look up the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl import registry
from llmctl.cli import options, show_cost, show_data, show_nearest
from llmctl.cli.render import table
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import UsageError
from llmctl.readable import number
from llmctl.registry import KINDS

LISTED = options.Argument("kind", f"one of {', '.join(KINDS)} (default: all)", required=False, choices=KINDS)
KIND = options.Argument("kind", f"one of {', '.join(KINDS)}, or data", choices=(*KINDS, "data"))
NAME = options.Argument(
    "name",
    "name of the entry; models: NAME[:SIZE] or a run; data: a prepared folder",
    required=False,
    kind="*",
)


def run_list(session: Session) -> None:
    word = session.extra["kind"]
    document = {"entries": [_listed(entry) for entry in registry.entries(registry.kind_named(word) if word else None)]}

    def show() -> None:
        rows = [
            [entry["kind"], entry["name"], entry["summary"] + _missing(entry), entry["owner"]]
            for entry in document["entries"]
        ]
        table(("kind", "name", "summary", "owner"), rows, names=(1,), least=(3, 0))

    session.finish(document, show)


def _listed(entry: registry.Entry) -> dict[str, Any]:
    """The entry; of an engine of ours, also whether what it needs is installed."""
    found: dict[str, Any] = entry.to_dict()
    if entry.kind != "engines" or entry.owner != "llmctl":
        return found
    spec = registry.load(entry.kind, entry.name)
    return found | {"installed": spec.installed} | ({} if spec.installed else {"install": spec.install})


def _missing(entry: Mapping[str, Any]) -> str:
    return f" (not installed: {entry['install']})" if "install" in entry else ""


def run_show(session: Session) -> None:
    kind, name = session.extra["kind"], session.extra["name"]
    word = show_nearest.requested(session, kind)
    if kind == "data" and (name is None or registry.looks_like_path(name) or not registry.kinds_with(name)):
        if name is None:
            raise UsageError("show data needs a prepared folder", hint="llmctl show data PREPARED --index 3")
        show_cost.refuse(session)
        return show_data.run(session, name)
    if given := show_data.requested(session):
        raise UsageError(f"--{next(iter(given))} is only valid for: llmctl show data PREPARED")
    if name is None:
        raise _nameless(kind)
    if word is not None:
        show_cost.refuse(session)
        return show_nearest.run(session, name, word)
    from llmctl.workflows.inspect.parts import describe

    document = describe(kind, name)
    cost = show_cost.cost_of(session, kind, name)
    if cost is None:
        return session.finish(document, lambda: _show(document))
    session.finish({**document, "forecast": cost.facts}, lambda: show_cost.show(document, cost))
    return None


def _nameless(word: str) -> UsageError:
    """The error for `llmctl show gpt2`, with the missing kind in the hint."""
    if kinds := registry.kinds_with(word):
        return UsageError("show needs a kind and a name", hint=f"did you mean: llmctl show {kinds[0]} {word}")
    return UsageError("show needs a kind and a name", hint=f"see: llmctl list {registry.kind_named(word)}")


_TABLES = ("sizes", "columns", "options")


def _show(document: Mapping[str, Any]) -> None:
    """Print the facts, one per line, then the tables."""
    print(f"{document['name']}  {plain(document['summary'])}\n")
    facts = {
        name: value
        for name, value in document.items()
        if name not in ("name", "summary", "vocabulary", *_TABLES) and value not in (None, [], "")
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {plain(_fact(value))}")
    if sizes := document.get("sizes"):
        print()
        table(
            ("size", f"parameters (vocabulary {document['vocabulary']:,})", "settings"),
            [[each["size"], number(each["parameters"]), _settings(each["settings"])] for each in sizes],
            right=(1,),
        )
    if columns := document.get("columns"):
        print()
        table(
            ("field", "type", "required"),
            [[each["name"], each["type"], "yes" if each["required"] else "no"] for each in columns],
        )
    if settings := document.get("options"):
        print()
        table(
            ("option", "type", "default", "description"),
            [[each["name"], each["type"], _fact(each["default"]), each["description"]] for each in settings],
            least=(1, 2),
        )


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_fact(value)}" for name, value in settings.items())


def _fact(value: Any) -> str:
    """Format a value as in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    if isinstance(value, Mapping):
        return _settings(value)
    return "-" if value is None else str(value)


LIST = options.Page(
    run_list, arguments=(LISTED,), shared=options.OUTPUT, examples=("llmctl list", "llmctl list models --json")
)
SHOW = options.Page(
    run_show,
    extra=(*show_data.OPTIONS, *show_cost.OPTIONS, *show_nearest.OPTIONS),
    arguments=(KIND, NAME),
    shared=(options.SET, *options.OUTPUT),
    examples=(
        "llmctl show models gpt2:tiny",
        "llmctl show models llama:small --data data/poems --measure",
        "llmctl show models runs/poems --nearest 月",
        "llmctl show data data/poems --index 3",
    ),
)
