"""Derive command-line options from a `Spec`: a flag, a `--set` key and a recipe key share one setting and one default."""

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
from llmctl.cli.help import HelpCommand, every_setting
from llmctl.cli.session import Session

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from llmctl.config import Spec

POSITIONAL = "without_flag"
"""The parameter that words without a flag go to; no setting has that name."""
OUTPUT_PANEL = "Output"
CONFIG_PANEL = "Configuration"


@dataclass(frozen=True, slots=True)
class Option:
    """A command-line flag."""

    name: str
    help: str
    panel: str
    metavar: str = ""
    """Empty for a switch."""
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    names: str | tuple[str, ...] = ()
    """The registry kind its values name, or the names; others may be valid too."""
    is_path: bool = False
    text: bool = False
    """The value is taken verbatim, not parsed as YAML."""
    key: str | None = None
    """The configuration key it sets; None if it is not a setting."""

    @property
    def parameter(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument."""

    name: str
    help: str
    required: bool = True
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    """Suggested values; others, such as folders, may be valid too."""
    kind: str | None = None
    """The registry kind its values name; `*` for the kind given by the previous argument."""
    is_path: bool = False


OUTPUT = (
    Option("--json", "print one JSON document to standard output", OUTPUT_PANEL),
    Option("--debug", "show tracebacks", OUTPUT_PANEL),
)
"""Options of every verb."""

WORK = (
    Option("--dry-run", "print the resolved settings and plan; write nothing", CONFIG_PANEL),
    Option("--force", "overwrite existing output", CONFIG_PANEL),
    Option("--offline", "never access the network", CONFIG_PANEL),
    Option(
        "--events",
        "append progress events as JSON lines; - for standard error",
        OUTPUT_PANEL,
        "FILE",
        is_path=True,
        text=True,
    ),
    Option("--quiet", "print only warnings and errors", OUTPUT_PANEL),
    Option("--verbose", "print more details", OUTPUT_PANEL),
    *OUTPUT,
)
"""Options of every verb that writes output."""

SET = Option(
    "--set",
    "set any setting, VALUE in YAML: model.layers=6; repeatable",
    CONFIG_PANEL,
    "KEY=VALUE",
    repeatable=True,
    text=True,
)

HELP_ALL = Option("--help-all", "also list every setting with type and default", OUTPUT_PANEL)

CONFIG = Option(
    "--config",
    "recipe file (YAML); repeatable, later files win",
    CONFIG_PANEL,
    "FILE",
    repeatable=True,
    is_path=True,
    text=True,
)

SHARED = (
    CONFIG,
    SET,
    *WORK,
)
"""Options of every verb that reads a block of a recipe."""


@dataclass(frozen=True, slots=True)
class Page:
    """The command-line interface of a verb. `spec` is None for verbs without settings."""

    run: Callable[[Session], None]
    spec: type[Spec] | None = None
    positional: str | None = None
    """The key filled by positional arguments."""
    extra: tuple[Option, ...] = ()
    """Options that are not settings; their values are in `Session.extra`."""
    arguments: tuple[Argument, ...] = ()
    """Positional arguments that are not settings; their values are in `Session.extra`."""
    shared: tuple[Option, ...] = SHARED
    examples: Sequence[str] = ()
    failed: Callable[..., None] | None = None
    """`Verb.failed`."""
    flags: tuple[Option, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", tuple(_flags(self.spec)) if self.spec else ())

    @property
    def words(self) -> Option | None:
        """The setting filled by words without a flag, as if it had one."""
        if self.spec is None or self.positional is None:
            return None
        return _option(self.positional, self.positional, self.spec.model_fields[self.positional], "")

    @property
    def options(self) -> tuple[Option, ...]:
        return (*self.flags, *self.extra, *self.shared)


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
        moved = inner.model_fields[rest]
        panel = moved.json_schema_extra.get("panel") if isinstance(moved.json_schema_extra, dict) else None
        yield _option(short, path, moved, str(panel or "Learning"))


def _option(name: str, key: str, info: FieldInfo, panel: str) -> Option:
    from pydantic_core import PydanticUndefined

    from llmctl.config import shown, spec_of

    value_type, repeatable = _element_type(info.annotation)
    choices = tuple(map(str, get_args(value_type))) if get_origin(value_type) is Literal else ()
    inner = spec_of(value_type)
    if inner is not None and inner.shorthand:
        # A block with a shorthand key: the flag takes the values of that key.
        named = inner.model_fields[inner.shorthand].annotation
        choices = tuple(map(str, get_args(named))) if get_origin(named) is Literal else choices
    help_text = info.description or ""
    if info.default not in (None, (), False, PydanticUndefined) and inner is None:
        help_text += f" [default: {info.default}]"
    values = shown(info)
    return Option(
        name="--" + name.replace("_", "-"),
        help=help_text,
        panel=panel,
        metavar=""
        if value_type is bool
        else "|".join(choices) or values.metavar or _METAVARS.get(value_type) or name.upper(),
        choices=choices,
        repeatable=repeatable,
        names=values.names,
        is_path=value_type is Path or values.path,
        text=value_type in (Path, str) or inner is not None,
        key=key,
    )


_METAVARS: Mapping[Any, str] = {int: "N", float: "X", Path: "FILE"}


def _element_type(annotation: Any) -> tuple[Any, bool]:
    """Return the type inside `| None`, `Annotated` and `tuple[…, ...]`, and whether it was a tuple.

    A dataclass, such as a gate, is parsed from text, so its type here is `str`.
    """
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


def add(app: typer.Typer, row: VerbRow, page: Page) -> None:
    """Add a verb with all its options to the Typer application."""
    parameters: list[inspect.Parameter] = []

    def parameter(name: str, annotation: Any, default: Any) -> None:
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )

    if page.spec and page.positional:
        field_info = page.spec.model_fields[page.positional]
        words: Any = list[str] | None if _element_type(field_info.annotation)[1] else str | None
        about = typer.Argument(help=field_info.description, metavar=page.positional.upper())
        parameter(POSITIONAL, Annotated[words, about], None)
    for argument in page.arguments:
        kind: Any = list[str] if argument.repeatable else str
        about = typer.Argument(help=argument.help, metavar=argument.name.upper(), show_default=False)
        optional = Annotated[kind | None, about]
        parameter(
            argument.name, Annotated[kind, about] if argument.required else optional, ... if argument.required else None
        )
    for option in (*page.options, HELP_ALL):
        declared = typer.Option(
            option.name,
            help=option.help,
            metavar=option.metavar or None,
            rich_help_panel=option.panel,
            show_default=False,
            is_eager=option is HELP_ALL,
            callback=every_setting(page.spec) if option is HELP_ALL else None,
        )
        kind = bool if not option.metavar else (list[str] if option.repeatable else str) | None
        parameter(option.parameter, Annotated[kind, declared], None if option.metavar else False)

    def command(**given: Any) -> None:
        with contextlib.closing(session_of(row.name, page, given)) as session:
            page.run(session)

    command.__doc__ = row.summary
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    made = type("Page", (HelpCommand,), {"examples": page.examples})
    app.command(row.name, help=row.summary, short_help=row.summary, rich_help_panel=row.panel, cls=made)(command)


def session_of(name: str, page: Page, given: Mapping[str, Any]) -> Session:
    """Make a session from the parsed command line."""
    flags: dict[str, Any] = {}
    for option in page.flags:
        value = given[option.parameter]
        if value is None or value == [] or value is False:
            continue
        assert option.key is not None
        flags[option.key] = [_value(option, each) for each in value] if option.repeatable else _value(option, value)
    if page.positional and given.get(POSITIONAL):
        flags[page.positional] = given[POSITIONAL]
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


def settings_in(name: str, page: Page, words: Sequence[str]) -> dict[str, Any]:
    """The settings in a command line that may be wrong, as far as they can be read."""
    given: dict[str, Any] = {option.parameter: [] if option.repeatable else None for option in page.options}
    named = {option.name: option for option in page.options if option.metavar}
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        option = named.get(flag)
        if option is None or not (equals or number + 1 < len(words)):
            continue
        value = value if equals else words[number + 1]
        given[option.parameter] = [*given[option.parameter], value] if option.repeatable else value
    session = session_of(name, page, given)
    try:
        return session.block()
    except Exception:  # an unreadable recipe or --set: what is on the command line remains
        return dict(session.flags)


def _value(option: Option, text: Any) -> Any:
    if text is True or option.text or option.choices:
        return text
    from llmctl.recipes import parse_yaml

    return parse_yaml(text, option.name) if text else text
