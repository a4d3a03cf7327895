"""Command-line options made from a `Spec`: a flag, a `--set` key and a recipe key are one setting with one default."""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from llmctl.catalog import VerbRow
from llmctl.cli.help import Command, every_setting
from llmctl.cli.session import Session

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from llmctl.config import Spec

OUTPUT_PANEL = "Output"
CONFIG_PANEL = "Configuration"


@dataclass(frozen=True, slots=True)
class Option:
    """One flag: what it is called, what it takes, where its value goes."""

    name: str
    help: str
    panel: str
    metavar: str = ""
    """Empty for a switch."""
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    kind: str | None = None
    """The registry's kind that its values are names of."""
    is_path: bool = False
    text: bool = False
    """The value is text as it stands, not YAML."""
    key: str | None = None
    """The configuration key it sets; None for a setting of the process itself."""

    @property
    def parameter(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True, slots=True)
class Argument:
    """Words without a flag: what they are called and what they can be."""

    name: str
    help: str
    required: bool = True
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    """Words that it can be; others may be right too (a folder, say)."""
    kind: str | None = None
    """The registry's kind that it names one of; `*` for the kind that the argument before it names."""
    is_path: bool = False


OUTPUT = (
    Option("--json", "one JSON document on standard output", OUTPUT_PANEL),
    Option("--debug", "show the traceback of an error", OUTPUT_PANEL),
)
"""What every verb has."""

WORK = (
    Option("--dry-run", "print the resolved plan, write nothing", CONFIG_PANEL),
    Option("--force", "replace what is in the way of the output", CONFIG_PANEL),
    Option("--offline", "never touch the network", CONFIG_PANEL),
    Option(
        "--events", "write progress as JSON lines; - for standard error", OUTPUT_PANEL, "FILE", is_path=True, text=True
    ),
    Option("--quiet", "say only warnings and errors", OUTPUT_PANEL),
    Option("--verbose", "say more", OUTPUT_PANEL),
    *OUTPUT,
)
"""What every verb that makes something has."""

SET = Option(
    "--set",
    "any setting: key.path=value, value in YAML; repeatable",
    CONFIG_PANEL,
    "KEY=VALUE",
    repeatable=True,
    text=True,
)

HELP_ALL = Option("--help-all", "list every setting too, with type and default", OUTPUT_PANEL)

CONFIG = Option(
    "--config", "a recipe; repeatable, later ones win", CONFIG_PANEL, "FILE", repeatable=True, is_path=True, text=True
)

SHARED = (
    CONFIG,
    SET,
    *WORK,
)
"""What every verb that reads a block of a recipe has."""


@dataclass(frozen=True, slots=True)
class Page:
    """How a verb looks from a shell. Its settings are a `Spec`; a verb that reads no configuration has none."""

    run: Callable[[Session], None]
    spec: type[Spec] | None = None
    positional: str | None = None
    """The key that words without a flag go to."""
    extra: tuple[Option, ...] = ()
    """Options that are no settings; `Session.extra` has their values."""
    arguments: tuple[Argument, ...] = ()
    """Words without a flag that are no settings; `Session.extra` has their values."""
    shared: tuple[Option, ...] = SHARED
    examples: Sequence[str] = ()
    flags: tuple[Option, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", tuple(_flags(self.spec)) if self.spec else ())

    @property
    def options(self) -> tuple[Option, ...]:
        return (*self.flags, *self.extra, *self.shared)


KIND_OF: Mapping[str, str] = {
    "task": "tasks",
    "model": "models",
    "models": "models",
    "metric": "metrics",
    "best_by": "metrics",
    "engine": "engines",
    "inputs": "datasets",
}
"""The registry's kind that the values of a setting are names of."""


def _flags(spec: type[Spec]) -> typing.Iterator[Option]:
    from llmctl.config import spec_of

    for name, info in spec.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and "panel" in extra:
            yield _option(name, name, info, str(extra["panel"]))
    for short, path in spec.moved.items():
        head, _, rest = path.partition(".")
        inner = spec_of(spec.model_fields[head].annotation)
        assert inner is not None
        yield _option(short, path, inner.model_fields[rest], "Learning")


def _option(name: str, key: str, info: FieldInfo, panel: str) -> Option:
    from pydantic_core import PydanticUndefined

    from llmctl.config import spec_of

    bare, repeatable = _bare(info.annotation)
    choices = tuple(map(str, get_args(bare))) if get_origin(bare) is Literal else ()
    inner = spec_of(bare)
    if inner is not None and inner.shorthand:
        # Where a block is named by one of its keys, the flag takes what that key takes.
        named = inner.model_fields[inner.shorthand].annotation
        choices = tuple(map(str, get_args(named))) if get_origin(named) is Literal else choices
    help_text = info.description or ""
    if info.default not in (None, (), PydanticUndefined) and inner is None:
        help_text += f" [default: {info.default}]"
    is_path = bare is Path
    return Option(
        name="--" + name.replace("_", "-"),
        help=help_text,
        panel=panel,
        metavar="|".join(choices) or _metavar(name, bare),
        choices=choices,
        repeatable=repeatable,
        # Only `model` as a block can be an architecture; where it is text it is a folder.
        kind=None if name == "model" and inner is None else KIND_OF.get(name),
        is_path=is_path or name in ("data", "model", "models", "input", "tokenizer"),
        text=is_path or bare is str or inner is not None,
        key=key,
    )


def _bare(annotation: Any) -> tuple[Any, bool]:
    """The type inside `| None`, `Annotated` and `tuple[…, ...]`, and whether it was a tuple. What is parsed from text is
    text here."""
    repeatable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(each for each in get_args(annotation) if each is not type(None))
        elif origin is tuple:
            annotation, repeatable = get_args(annotation)[0], True
        else:
            return str if is_dataclass(annotation) else annotation, repeatable


def _metavar(name: str, bare: Any) -> str:
    if bare is int:
        return "N"
    if bare is float:
        return {"max_time": "TIME"}.get(name, "X")
    if bare is Path:
        return "DIR" if name in ("out", "data") else "FILE"
    return {
        "prompt": "TEXT",
        "system": "TEXT",
        "stop": "TEXT",
        "columns": "NAME=COLUMN",
        "main_address": "HOST[:PORT]",
    }.get(name, name.upper())


def add(app: typer.Typer, row: VerbRow, page: Page) -> None:
    """Give the Typer application this verb, with every option its spec has."""
    parameters: list[inspect.Parameter] = []

    def parameter(name: str, annotation: Any, default: Any) -> None:
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )

    if page.spec and page.positional:
        field_info = page.spec.model_fields[page.positional]
        words: Any = list[str] | None if _bare(field_info.annotation)[1] else str | None
        about = typer.Argument(help=field_info.description, metavar=page.positional.upper())
        parameter("words", Annotated[words, about], None)
    for argument in page.arguments:
        kind: Any = list[str] if argument.repeatable else str
        about = typer.Argument(help=argument.help, metavar=argument.name.upper(), show_default=False)
        optional = Annotated[kind | None, about]
        parameter(
            argument.name, Annotated[kind, about] if argument.required else optional, ... if argument.required else None
        )
    for option in (*page.options, *((HELP_ALL,) if page.spec else ())):
        declared = typer.Option(
            option.name,
            help=option.help,
            metavar=option.metavar or None,
            rich_help_panel=option.panel,
            show_default=False,
            is_eager=option is HELP_ALL,
            callback=every_setting(page.spec) if page.spec and option is HELP_ALL else None,
        )
        kind = bool if not option.metavar else (list[str] if option.repeatable else str) | None
        parameter(option.parameter, Annotated[kind, declared], None if option.metavar else False)

    def command(**given: Any) -> None:
        with contextlib.closing(session_of(row.name, page, given)) as session:
            page.run(session)

    command.__doc__ = row.summary
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    made = type("Page", (Command,), {"examples": page.examples})
    app.command(row.name, help=row.summary, short_help=row.summary, rich_help_panel=row.panel, cls=made)(command)


def session_of(name: str, page: Page, given: Mapping[str, Any]) -> Session:
    """What the user typed, as a session."""
    flags: dict[str, Any] = {}
    for option in page.flags:
        value = given[option.parameter]
        if value is None or value == []:
            continue
        assert option.key is not None
        flags[option.key] = [_value(option, each) for each in value] if option.repeatable else _value(option, value)
    if page.positional and given.get("words"):
        flags[page.positional] = given["words"]
    return Session(
        verb=name,
        spec=page.spec,
        flags=flags,
        recipes=tuple(Path(each) for each in given.get("config") or ()),
        sets=tuple(given.get("set") or ()),
        extra={
            **{argument.name: given[argument.name] for argument in page.arguments},
            **{option.parameter: given[option.parameter] for option in page.extra},
        },
        **{option.parameter: given[option.parameter] for option in (*WORK, *OUTPUT) if option.parameter in given},
    )


def _value(option: Option, text: str) -> Any:
    if option.text or option.choices:
        return text
    from llmctl.recipes import parse_yaml

    return parse_yaml(text, option.name) if text else text
