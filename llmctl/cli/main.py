"""The entry point: builds the command line, turns errors into exit codes and ends the process.

Only the requested verb is imported, so that `--help` takes little longer than starting Python.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import typer

from llmctl import __version__, environment
from llmctl.catalog import VERBS, VerbRow
from llmctl.cli import streams
from llmctl.cli.session import DOCUMENTS
from llmctl.errors import PANIC, EnvironmentFault, Failure, LlmctlError, Terminated, untranslated
from llmctl.other_tools import advice_on
from llmctl.registry import find_verb, near, near_verb, verbs

EXIT_CODES: Final = (
    (0, "done"),
    (1, "a bug in llmctl"),
    (2, "usage or config: unknown option, name, path or key"),
    (3, "input data is bad"),
    (4, "environment: missing package, disk, memory, permission"),
    (5, "integrity or security refusal"),
    (6, "training diverged (not finite); last good checkpoint kept"),
    (7, "busy: another process owns that folder or port"),
    (10, "a gate was not met (--require), or rows failed"),
    (75, "stopped on request, resumable (SIGTERM or SIGINT in train, generate --output)"),
    (130, "interrupted where there was nothing to resume (143 by SIGTERM)"),
    (141, "the reader of our output went away: silent (or 0)"),
)

LONGEST_LINE: Final = 2000
"""Characters of a line of an error that are shown: it may quote a name or value of a megabyte."""


def build(words: Sequence[str]) -> typer.Typer:
    """Build the Typer application; only the verb named in `words` gets its options."""
    from llmctl.cli.help import Group

    codes = "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES)
    app = typer.Typer(
        name="llmctl",
        cls=Group,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True, epilog=f"\nExit codes:\n{codes}")
    def root(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
    ) -> None:
        """The language-model lifecycle from the command line: preprocess, train, generate, eval.

        Start with: llmctl quickstart
        """
        if version:
            print(f"llmctl {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit

    wanted = find_verb(next((word for word in words if not word.startswith("-")), None))
    for row in VERBS if wanted in VERBS else verbs().values():
        if row == wanted:
            from llmctl.cli import options
            from llmctl.cli.pages import page_of

            options.add(app, row, page_of(row))
        else:
            app.command(row.name, help=row.summary, rich_help_panel=row.panel)(_elsewhere)
    return app


def _elsewhere() -> None:
    """Placeholder for the verbs that were not requested."""


def main() -> None:
    """Run the command line and exit with its exit code."""
    streams.open_closed()
    try:
        code = run(sys.argv[1:])
    except (KeyboardInterrupt, Terminated) as error:  # a second signal while the first one was being reported
        code = 130 if isinstance(error, KeyboardInterrupt) else 143
    _ignore_signals()
    gc.freeze()  # the interpreter would search all that was imported for cycles, a fifth of the time that help takes
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line and return the exit code. Standard output is flushed, so a full disk is an error."""
    environment.prepare(command=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the same bytes in every locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = _guarded(words)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except (OSError, EnvironmentFault) as error:
        _drop_stdout()
        if code:
            return code  # already reported
        why = (
            str(error) if isinstance(error, EnvironmentFault) else f"cannot write to standard output: {error.strerror}"
        )
        _print_error(words, "environment", why, None, 4)
        return 4
    return code


def _guarded(words: Sequence[str]) -> int:
    """Run the command line; map every way of ending to its exit code. Only here are unknown exceptions caught."""
    debug = "--debug" in words
    previous = [(number, signal.signal(number, handler)) for number, handler in _HANDLERS] if _in_main_thread() else []
    _RECEIVED.clear()
    DOCUMENTS.clear()
    try:
        done = build(words)(args=list(words), standalone_mode=False, prog_name="llmctl")
        if done == 130:  # typer turns Ctrl-C into its own exit and returns the code
            raise KeyboardInterrupt
        return done if isinstance(done, int) else 0
    except typer.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _ignore_signals()
        _print_error(words, "interrupted", "interrupted", None, 130)
        return 130
    except Terminated:
        _ignore_signals()
        _print_error(words, "terminated", "terminated", None, 143)
        return 143
    except (BrokenPipeError, SystemExit) as ended:
        # typer turns a broken pipe into its own exit.
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
            raise
        _drop_stdout()
        return 141
    except LlmctlError as error:
        if debug:
            traceback.print_exc()
        _print_error(words, error.kind, str(error), error.hint, error.exit_code, error.document)
        return error.exit_code
    except typer.TyperException as error:
        message, hint = _usage(words, error)
        _print_error(words, "usage", message, hint, 2)
        return 2
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        if _RECEIVED:  # a library that was being imported made its own error of the signal's exception
            _ignore_signals()
            code, kind = (143, "terminated") if _RECEIVED[0] == signal.SIGTERM else (130, "interrupted")
            _print_error(words, kind, kind, None, code)
            return code
        return _foreign(words, error, debug=debug)
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _foreign(words: Sequence[str], error: BaseException, *, debug: bool) -> int:
    """Report any other exception: an operating-system error, or a bug."""
    if debug:
        traceback.print_exc()
    translated = untranslated(error)
    hint = None if debug and translated.kind == "bug" else translated.hint
    _print_error(words, translated.kind, translated.message, hint, translated.exit_code)
    return translated.exit_code


def _usage(words: Sequence[str], error: typer.TyperException) -> tuple[str, str | None]:
    """Message and hint for an error in the command line."""
    row = next((row for row in map(find_verb, words) if row), None)
    hint = f"see: llmctl {row.name} --help" if row else "see: llmctl --help"
    mistyped, known = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    unknown = hasattr(error, "possibilities")  # as opposed to an option without its value
    if mistyped:
        # Compare without the dashes, which make all options look similar.
        undashed = {option.lstrip("-"): option for option in known or ()}
        close = [each for each in undashed if near(mistyped.lstrip("-"), [each])]
        message = str(getattr(error, "message", error))
        hint = (
            (_deeper(row, mistyped, words) if row and unknown else None)
            or (_named_elsewhere(row, mistyped) if unknown else None)
            or near(mistyped, [undashed[each] for each in close])
            or hint
        )
    else:
        formatted = getattr(error, "format_message", None)
        message = str(formatted() if formatted else error).strip()
        message, _, meant = message.partition(" Did you mean ")
        if unknown_verb := re.match("No such command '(.*)'", message):
            hint = near_verb(unknown_verb[1], verbs()) or hint
        else:
            hint = f"did you mean {meant}" if meant else hint
    message = message.rstrip(".")
    return message[:1].lower() + message[1:], hint


def _deeper(row: VerbRow, mistyped: str, words: Sequence[str]) -> str | None:
    """Suggest `--set` for a setting that has no flag: `--layers 3` -> `--set model.layers=3`."""
    from llmctl.cli.pages import page_of
    from llmctl.config import elsewhere

    spec = page_of(row).spec
    found = elsewhere(spec, mistyped.lstrip("-").replace("-", "_")) if spec else []
    if not found:
        return None
    given = next((number for number, word in enumerate(words) if word.partition("=")[0] == mistyped), len(words))
    _, _, value = words[given].partition("=") if given < len(words) else ("", "", "")
    after = words[given + 1] if given + 1 < len(words) else "-"
    value = value or (after if not after.startswith("-") else "VALUE")
    return " or ".join(shlex.join(["--set", f"{each}={value}"]) for each in found[:2])


def _named_elsewhere(row: VerbRow | None, mistyped: str) -> str | None:
    """Our flag or setting for an option of another tool: `--learning_rate` -> `--lr`."""
    from llmctl.cli.pages import page_of
    from llmctl.config import named_elsewhere

    page = page_of(row) if row else None
    found = named_elsewhere(page.spec, mistyped) if page and page.spec else []
    if page is None or not found:
        return advice_on(mistyped)
    flags = {option.key: option for option in page.flags}
    shown = []
    for each in found[:2]:
        if each in flags:
            shown.append(flags[each].name)
        elif each == page.positional:
            shown.append(f"{each.upper()} without a flag")
        else:
            shown.append(f"--set {each}=VALUE")
    return f"did you mean {' or '.join(shown)}?"


def _print_error(
    words: Sequence[str],
    kind: str,
    message: str,
    hint: str | None,
    code: int,
    document: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print an error to standard error; with `--json` also a document with the error and any partial results."""
    from llmctl.cli.render import error_lines

    message = "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…" for line in message.split("\n")
    )
    if "--json" in words:
        from llmctl.cli.session import write_document

        verb = next((word for word in words if not word.startswith("-")), "llmctl")
        error = {"kind": kind, "message": message, "hint": hint, "exit_code": code}
        try:
            write_document(verb, "error", {"error": error, **document})
        except (OSError, EnvironmentFault):
            _drop_stdout()
    print(error_lines(kind, message, hint), file=sys.stderr)
    with contextlib.suppress(Exception):  # must not hide the error
        _tell_verb(words, Failure(kind, message, hint, code, document))


def _tell_verb(words: Sequence[str], failure: Failure) -> None:
    """Let the verb report the error for other tools, as `eval --junit` does."""
    row = find_verb(next((word for word in words if not word.startswith("-")), None))
    if row is None or "--dry-run" in words:
        return
    from llmctl.cli import options
    from llmctl.cli.pages import page_of

    page = page_of(row)
    if page.failed is not None:
        from llmctl.cli.render import ProgressReporter
        from llmctl.verbs import Context

        context = Context(ProgressReporter(), force="--force" in words)
        page.failed(options.settings_in(row.name, page, words), failure, context)


_RECEIVED: Final[list[int]] = []
"""The signals that were to end this command."""
_RECEIVED_AT: Final = [0.0]
"""When the last of them came."""


SECOND_SIGNAL_SECONDS: Final = 2.0
"""A signal that follows another sooner is part of the same wish: it must not disturb what the first has set off."""


def _end(number: int, frame: Any) -> None:
    now = time.monotonic()
    if _RECEIVED and now - _RECEIVED_AT[0] < SECOND_SIGNAL_SECONDS:
        return
    _RECEIVED.append(number)
    _RECEIVED_AT[0] = now
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


_HANDLERS: Final = ((signal.SIGINT, _end), (signal.SIGTERM, _end))
"""SIGINT too: a shell without job control lets its background processes ignore it."""


def _ignore_signals() -> None:
    """Let nothing interrupt the report of an interruption, or the end of the process."""
    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _drop_stdout() -> None:
    """Redirect standard output to /dev/null, because the reader is gone and the interpreter flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not _has_descriptor(sys.stdout):  # a closed standard output: see streams.open_closed
        sys.stdout = streams.nowhere()


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return False
    return True
