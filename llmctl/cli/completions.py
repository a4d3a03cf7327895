"""`llmctl completions`: the completion script of a shell, from the options that the verbs really have."""

from __future__ import annotations

import importlib
from typing import Final

import typer

from llmctl import registry
from llmctl.cli import completion_scripts as workflow
from llmctl.cli import options
from llmctl.cli.completion_scripts import Command, Flag, Place, Values
from llmctl.cli.main import VERBS, VerbRow
from llmctl.cli.session import Session
from llmctl.data.spec import TOKENIZERS
from llmctl.workflows.inspect.parts import settings
from llmctl.workflows.recipe.record import STAGES
from llmctl.workflows.recipe.specs import SPECS

SHELL: Final = options.Argument("shell", f"one of {', '.join(workflow.SHELLS)}", choices=tuple(workflow.SHELLS))


def add(app: typer.Typer, row: VerbRow) -> None:
    options.add(app, verb(row.summary))


def verb(summary: str) -> options.Verb:
    return options.Verb("completions", None, run, summary, arguments=(SHELL,), shared=options.OUTPUT)


def run(session: Session) -> None:
    text = workflow.script(session.extra["shell"], commands())
    session.finish({"shell": session.extra["shell"], "script": text}, lambda: print(text, end=""))


def commands() -> list[Command]:
    """Every verb with its options and values."""
    return [_command(verb_of(row)) for row in VERBS]


def verb_of(row: VerbRow) -> options.Verb:
    """The verb of a row of the front door: `verb`, or `NAME_verb` where a module has several."""
    module = importlib.import_module(f"llmctl.cli.{row.module}")
    make = getattr(module, f"{row.name}_verb", None) or module.verb
    made: options.Verb = make(row.summary)
    return made


def _command(verb: options.Verb) -> Command:
    flags = tuple(Flag(each.name, each.help, _values(verb, each), each.repeatable) for each in verb.options)
    return Command(verb.name, verb.summary, flags, _words(verb))


def _values(verb: options.Verb, option: options.Option) -> Values | None:
    if not option.metavar:
        return None
    if option is options.SET:
        return Values(tuple(_keys(verb)), unfinished=True)
    words = option.choices or (_names(option.kind) if option.kind else ())
    if option.key == "tokenizer":
        words = TOKENIZERS
    return Values(words, _place(option))


def _place(option: options.Option) -> Place | None:
    if not option.is_path:
        return None
    return "folder" if option.key in ("model", "models", "out") else "file"


def _words(verb: options.Verb) -> Values | None:
    """What stands without a flag: the positional setting, or the verb's arguments."""
    if verb.positional:
        kind = options.KIND_OF.get(verb.positional)
        return Values(_names(kind) if kind else (), "folder" if verb.positional == "out" else "file")
    if not verb.arguments:
        return None
    first = verb.arguments[0]
    names = any(argument.kind == "*" for argument in verb.arguments)
    return Values(
        first.choices,
        "file" if first.is_path else None,
        after={kind: _names(kind) for kind in registry.KINDS} if names else {},
    )


def _names(kind: str) -> tuple[str, ...]:
    """The built-in names of a kind (a script is the same on every machine), models with their sizes."""
    names: list[str] = []
    for entry in registry.entries(kind):
        if entry.owner != registry.OWNER:
            continue
        names.append(entry.name)
        if kind == "models":
            names += [f"{entry.name}:{size}" for size in registry.load(kind, entry.name).sizes]
    return tuple(names)


def _keys(verb: options.Verb) -> list[str]:
    """What `--set` can begin with: the verb's keys; where a verb has no block of its own, each verb's with its name."""
    if verb.spec is not None:
        return [f"{option['name']}=" for option in settings(verb.spec)]
    return [f"{name}.{option['name']}=" for name in STAGES for option in settings(SPECS[name])]
