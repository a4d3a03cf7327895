"""The generic page of a `Verb`: load settings, check, run, print the result."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import typer

from llmctl import config as configuration
from llmctl import registry
from llmctl.cli import options
from llmctl.cli.options import Option, Page
from llmctl.cli.render import ProgressReporter, draw
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import ConfigError, Fault, LlmctlError
from llmctl.verbs import Context, Table, Verb, recorded_settings

RESUME, DRY_RUN = "resume", "dry-run"


def page_for(verb: Verb[Any]) -> Page:
    """Make the page of a verb."""
    return Page(
        run=functools.partial(_run, verb),
        spec=verb.spec,
        positional=verb.positional,
        extra=tuple(Option(f"--{name}", text, "Main") for name, text in verb.switches.items()),
        shared=options.SHARED if verb.writes else (options.CONFIG, options.SET, *options.OUTPUT),
        examples=verb.examples,
        failed=verb.failed,
    )


def _run(verb: Verb[Any], session: Session) -> None:
    on = {name for name in verb.switches if session.extra[name.replace("-", "_")]}
    if RESUME in on and verb.resumes:
        session = _with_recorded_settings(verb, session)
    try:
        config = session.config(verb.spec)
    except ConfigError as error:
        if missing := _missing(verb, session, error):
            raise ConfigError([*error.faults, *missing]) from error
        raise
    live = _Live(session.reporter) if sys.stdout.isatty() and not session.json else None
    context = Context(
        session.emit,
        force=session.force,
        offline=session.offline,
        switches=frozenset(on | ({DRY_RUN} if session.dry_run else set())),
        interactive=sys.stdin is None or sys.stdin.isatty(),
        stream=live,
        line=None if session.json else functools.partial(_line, session),
    )
    plan = verb.check(config, context)
    if (not session.dry_run or on) and (text := verb.starts(config)):
        session.reporter.starting(text)
    if session.dry_run:
        found = verb.dry_run(plan, context)
        return session.plan(found.settings, found.facts, found.shown, found.refusal)
    try:
        output = verb.run(plan, context)
    except BaseException:
        if live is not None:
            live.end_line()
        raise
    if output.refusal:
        session.fail(output.refusal, output.document, lambda: show(output.lines()))
    if output.silent:
        return None
    session.finish(output.document, lambda: show(output.lines()))
    if output.then is not None:
        raise typer.Exit(output.then())
    return None


class _Live:
    """Print text to the terminal as it arrives."""

    def __init__(self, reporter: ProgressReporter) -> None:
        self._reporter, self._printed = reporter, False

    def end_line(self) -> None:
        """An error message begins on a line of its own."""
        if self._printed:
            print(flush=True)

    def __call__(self, text: str) -> None:
        self._printed = True
        self._reporter.clear()
        sys.stdout.write(plain(text))
        sys.stdout.flush()


def _line(session: Session, text: str) -> None:
    if sys.stdout.isatty():
        session.reporter.clear()
    with session.printing():
        show([text])


def show(lines: Iterable[str | Table]) -> None:
    """Print lines and tables. On a terminal, control characters are escaped."""
    terminal = sys.stdout.isatty()
    for line in lines:
        if isinstance(line, Table):
            draw(line)
        else:
            print(plain(line) if terminal else line)


def _missing(verb: Verb[Any], session: Session, error: ConfigError) -> list[Fault]:
    """The inputs that do not exist, beside settings that are wrong: both are reported at once.

    Without the wrong settings the others may still make a configuration, which says what is read.
    """
    with contextlib.suppress(LlmctlError, OSError, ValueError):
        block = session.block()
        for fault in error.faults:
            *outer, last = fault.path.split(".")
            place = block
            for key in outer:
                if not isinstance(place.get(key), dict):  # a list, or a name in place of a block
                    last = key
                    break
                place = place[key]
            place.pop(last, None)
        read = verb.reads(configuration.validate(verb.spec, block))
        built_in = registry.table("datasets").lookup
        return [
            Fault("", f"no such file or folder: {path}")
            for path in read
            if not path.exists() and ":" not in path.parts[0] and str(path) not in built_in
        ]
    return []


def _with_recorded_settings(verb: Verb[Any], session: Session) -> Session:
    """Use the settings recorded in the output folder as defaults for the new ones."""
    return replace(session, recorded=recorded_settings(verb, session.block()) or {})
