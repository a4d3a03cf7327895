"""Help pages: options in panels, then with `--help-all` every setting, then examples.

The text is the same on a terminal and in a pipe. It is formatted without rich, whose import takes longer than the rest of
the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from llmctl.cli.terminal import fancy, width

if TYPE_CHECKING:
    from llmctl.config import Spec

EVERY_SETTING: Final = "llmctl.every_setting"
"""The key under which a context stores the spec for `--help-all`."""
WIDEST: Final = 110


class HelpCommand(TyperCommand):
    """Format the help of a verb."""

    examples: Sequence[str] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        _section(formatter, "Arguments", ctx, arguments)
        panels: dict[str, list[Any]] = {}
        for each in self.get_params(ctx):
            if each.param_type_name == "option":
                panels.setdefault(getattr(each, "rich_help_panel", None) or "Output", []).append(each)
        for panel, options in panels.items():
            _section(formatter, panel, ctx, options)
        if spec := ctx.meta.get(EVERY_SETTING):
            _settings(formatter, spec)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.examples:
            with formatter.section(_heading("Examples")):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Group(TyperGroup):
    """Format the help of `llmctl`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _section(formatter, "Options", ctx, self.get_params(ctx))
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panels.setdefault(command.rich_help_panel or "Commands", []).append((name, command.help or ""))
        for panel, rows in panels.items():
            with formatter.section(_heading(panel)):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the lines verbatim; a paragraph would be re-wrapped."""
        for line in (self.epilog or "").splitlines():
            formatter.write(f"{line}\n")


def every_setting(spec: type[Spec] | None) -> Any:
    """Make the callback of `--help-all`."""

    def callback(context: typer.Context, wanted: bool) -> None:
        if wanted:
            context.meta[EVERY_SETTING] = spec
            print(context.get_help())
            raise typer.Exit

    return callback


def _write(command: Any, ctx: Any, formatter: Any) -> None:
    formatter.width = min(WIDEST, width(sys.stdout))
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    command.format_options(ctx, formatter)
    command.format_epilog(ctx, formatter)


def _section(formatter: Any, title: str, ctx: Any, parameters: Iterable[Any]) -> None:
    records = [row for each in parameters if (row := each.get_help_record(ctx)) is not None]
    # Typer adds the Python type to the name of an argument: `OUT <str>`.
    rows = [(name.partition(" <")[0], text) for name, text in records]
    if rows:
        with formatter.section(_heading(title)):
            formatter.write_dl(rows)


def _settings(formatter: Any, spec: type[Spec]) -> None:
    from llmctl.workflows.inspect.parts import settings

    rows = []
    for each in settings(spec):
        # The description of a setting that is derived where it is not set says how.
        derived = each["default"] is None and "default" in each["description"]
        default = "required" if each["required"] else f"default: {_written(each['default'])}"
        rows.append((f"{each['name']}={each['type']}", each["description"] + ("" if derived else f" [{default}]")))
    with formatter.section(_heading("Every setting, for --set KEY=VALUE and recipes")):
        formatter.write_dl(rows)


def _written(value: Any) -> str:
    """Format a value as in YAML."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value in ((), []) else str(value)


def _heading(title: str) -> str:
    return f"\x1b[1m{title}\x1b[0m" if fancy(sys.stdout) else title
