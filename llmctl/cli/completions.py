"""`llmctl completions`: generate a shell completion script from the options of the verbs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from llmctl import registry
from llmctl.catalog import VERBS, VerbRow
from llmctl.cli import completion_scripts, options
from llmctl.cli.completion_scripts import Command, Flag, Place, Values
from llmctl.cli.pages import page_of
from llmctl.cli.session import Session
from llmctl.config import ignore
from llmctl.errors import EnvironmentFault
from llmctl.workflows.inspect.parts import settings

SHELL: Final = options.Argument(
    "shell", f"one of {', '.join(completion_scripts.SHELLS)}", choices=tuple(completion_scripts.SHELLS)
)


def run(session: Session) -> None:
    text = completion_scripts.script(session.extra["shell"], commands(session.note))
    session.finish({"shell": session.extra["shell"], "script": text}, lambda: print(text, end=""))


def commands(note: Callable[[str], None] = ignore) -> list[Command]:
    """Every verb with its options and values, those of plug-ins too. `note` receives what keeps a plug-in out."""
    found = []
    for row in registry.verbs().values():
        try:
            found.append(_command(row, page_of(row)))
        except EnvironmentFault as error:
            if row.owner == registry.OWNER:
                raise
            note(f"left out: {error}")
    return found


def _command(row: VerbRow, page: options.Page) -> Command:
    given = (*page.options, options.HELP_ALL)
    flags = tuple(Flag(each.name, each.help, _values(page, each), each.repeatable) for each in given)
    return Command(row.name, row.summary, flags, _words(page))


def _values(page: options.Page, option: options.Option) -> Values | None:
    if not option.metavar:
        return None
    if option is options.SET:
        return Values(tuple(_keys(page)), unfinished=True)
    return Values(option.choices or _named(option), _place(option))


def _named(option: options.Option) -> tuple[str, ...]:
    return _names(option.names) if isinstance(option.names, str) else option.names


def _place(option: options.Option) -> Place | None:
    if not option.is_path:
        return None
    return "folder" if option.metavar in ("DIR", "MODEL", "MODELS") else "file"


def _words(page: options.Page) -> Values | None:
    """The values of positional arguments: of the positional setting, or of the verb's arguments."""
    if page.words is not None:
        return Values(_named(page.words), _place(page.words))
    if not page.arguments:
        return None
    first = page.arguments[0]
    names = any(argument.kind == "*" for argument in page.arguments)
    return Values(
        first.choices,
        "file" if first.is_path else None,
        after={kind: _names(kind) for kind in registry.KINDS} if names else {},
    )


def _names(kind: str) -> tuple[str, ...]:
    """The names of a kind; models also with their sizes."""
    names: list[str] = []
    for entry in registry.entries(kind):
        names.append(entry.name)
        if kind == "models":
            with contextlib.suppress(EnvironmentFault):  # of a plug-in that cannot be loaded
                names += [f"{entry.name}:{size}" for size in registry.load(kind, entry.name).sizes]
    return tuple(names)


def _keys(page: options.Page) -> list[str]:
    """The keys for `--set`: those of the verb, or of every stage, prefixed with its name, if the verb has no settings."""
    if page.spec is not None:
        return [f"{option['name']}=" for option in settings(page.spec)]
    stages = [(row.name, page_of(row).spec) for row in VERBS if row.recipe == "stage"]
    return [f"{name}.{option['name']}=" for name, spec in stages if spec for option in settings(spec)]


PAGE = options.Page(
    run,
    arguments=(SHELL,),
    shared=options.OUTPUT,
    examples=(
        'eval "$(llmctl completions bash)"',
        "llmctl completions fish > ~/.config/fish/completions/llmctl.fish",
    ),
)
