"""Every error a user can see, with its exit code.

    LlmctlError                1   a bug in llmctl, if nothing more specific is known
    ├── UsageError             2   unknown option, name, path or key
    │   └── ConfigError        2   all faults of a configuration at once
    ├── DataError              3   bad input data
    │   ├── PromptTooLong      3   … a prompt exceeds the context
    │   └── MissingField       3   … a record lacks a field
    ├── EnvironmentFault       4   missing package, disk, memory, permission
    │   ├── MissingPackage     4   … with the command that installs it
    │   └── DiskFull           4   … a file cannot grow
    ├── IntegrityError         5   a corrupted or edited file, or one that would run code
    ├── DivergedError          6   the loss is not finite
    ├── BusyError              7   another process uses the folder
    ├── GateError             10   a requirement on a score was not met, or rows failed
    └── Stopped               75   stopped on request, resumable

    SeveralErrors         3-75   several faults, none of them usage: the lowest of their codes

The message states the problem, `where` its location (`file:line:field`), `hint` what to do next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LlmctlError(Exception):
    """Base class of all errors, which are shown in one to three lines."""

    kind: str = "bug"
    exit_code: int = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        if hint:
            self.add_note(hint)  # a stack of Python's shows it below the message
        self.document: Mapping[str, Any] = {}
        """Results to print with `--json` despite the error, such as the scores of a gate that was not met."""

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.message}" if self.where else self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes: they are made again without a call of their constructors, which differ."""
        return _same_error, (type(self), self.args, self.__dict__)


def _same_error(kind: type[LlmctlError], arguments: tuple[Any, ...], state: dict[str, Any]) -> LlmctlError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


def one_line(text: str) -> str:
    """Escape line breaks, which file names and messages of other libraries may contain."""
    return text.strip("\n").replace("\n", "\\n")


class Failure(NamedTuple):
    """The error that ends a command, as it is reported."""

    kind: str
    message: str
    hint: str | None
    exit_code: int
    document: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, error: LlmctlError) -> Failure:
        return cls(error.kind, str(error), error.hint, error.exit_code, error.document)


def encoded(error: LlmctlError) -> dict[str, Any]:
    """An error as JSON, for another process."""
    return {
        "class": type(error).__name__,
        "kind": error.kind,
        "exit_code": error.exit_code,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }


def decoded(message: Mapping[str, Any]) -> LlmctlError:
    """The error that `encoded` has made JSON of, as its own class where that is one of ours."""
    error_class: type[LlmctlError] = globals().get(message["class"], LlmctlError)
    error = LlmctlError.__new__(error_class)
    LlmctlError.__init__(error, message["message"], where=message["where"], hint=message["hint"])
    error.kind, error.exit_code = message["kind"], message["exit_code"]
    return error


class UsageError(LlmctlError):
    kind = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One problem in a configuration. `path` is the full dotted key."""

    path: str
    problem: str
    hint: str | None = None

    def __str__(self) -> str:
        line = f"{self.path}: {self.problem}" if self.path else self.problem
        return f"{line}; {self.hint}" if self.hint else line


class ConfigError(UsageError):
    """All faults of one configuration, reported together."""

    kind = "config"
    faults: tuple[Fault, ...] = ()

    def __init__(self, faults: Sequence[Fault], *, where: str | None = None, hint: str | None = None) -> None:
        self.faults = tuple(faults)
        super().__init__(_lines(faults), where=where, hint=hint)

    def __str__(self) -> str:
        return self.message


class SeveralErrors(LlmctlError):
    """Faults of several kinds, none of them a usage error, reported together."""

    faults: tuple[Fault, ...] = ()

    def __init__(self, faults: Sequence[Fault], *, like: LlmctlError) -> None:
        self.faults = tuple(faults)
        super().__init__(_lines(faults))
        self.kind, self.exit_code = like.kind, like.exit_code

    def __str__(self) -> str:
        return self.message


MOST_FAULTS: Final = 20
"""Faults that are listed; the others are counted."""


def _lines(faults: Sequence[Fault]) -> str:
    shown = [one_line(str(fault)) for fault in faults[:MOST_FAULTS]]
    return "\n".join([*shown, *([f"and {len(faults) - len(shown):,} more"] if len(faults) > len(shown) else [])])


class ErrorCollector:
    """Collect the errors of independent checks and raise them together: a single error unchanged, several as lines.

    Several errors get the lowest of their exit codes: usage (2) before data (3), environment (4) and integrity (5),
    because the command has to be fixed first in any case.
    """

    def __init__(self) -> None:
        self._found: list[tuple[str, LlmctlError]] = []

    def check(self, key: str, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a check of the setting `key` and return its result; on an error, keep the error and return None."""
        try:
            return check(*args, **kwargs)
        except LlmctlError as error:
            self._found.append((key, error))
            return None

    @property
    def ok(self) -> bool:
        """Whether no check has failed so far."""
        return not self._found

    def raise_all(self) -> None:
        """Raise the collected errors, if any."""
        if self.ok:
            return
        least = min((error for _, error in self._found), key=lambda error: error.exit_code)
        if len(self._found) == 1:
            raise least
        faults = list(dict.fromkeys(fault for found in self._found for fault in _faults(*found)))
        raise ConfigError(faults) if isinstance(least, UsageError) else SeveralErrors(faults, like=least)


def _faults(key: str, error: LlmctlError) -> list[Fault]:
    """Convert an error to faults; an error that holds several faults keeps their paths."""
    if not isinstance(error, ConfigError | SeveralErrors) or not error.faults:
        return [Fault(key, str(error), error.hint)]
    first, *others = error.faults
    return [replace(first, hint=first.hint or error.hint), *others]


class DataError(LlmctlError):
    kind = "data"
    exit_code = 3


class PromptTooLong(DataError):
    """A prompt longer than the model's context; both lengths are in tokens."""

    def __init__(
        self,
        length: int,
        context: int,
        *,
        where: str | None = None,
        unit: str = "tokens",
        hint: str = "shorten the prompt",
    ) -> None:
        holds = "" if unit == "tokens" else " tokens"
        super().__init__(
            f"the prompt is {length:,} {unit} long, the model's context {context:,}{holds}", where=where, hint=hint
        )


class MissingField(DataError):
    """A record lacks a field."""

    def __init__(self, message: str, *, columns: str, where: str | None = None, hint: str | None = None) -> None:
        """`columns`: what names the columns of all missing fields, `text=Text,label=YOUR_COLUMN`."""
        super().__init__(message, where=where, hint=hint)
        self.columns = columns


class EnvironmentFault(LlmctlError):
    kind = "environment"
    exit_code = 4


class MissingPackage(EnvironmentFault):
    """An optional package is not installed."""

    def __init__(self, package: str, *, needed_for: str, install: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed", hint=install)


class DiskFull(EnvironmentFault):
    """A file cannot grow: the disk, a quota or a limit on file sizes is reached. Libraries seldom say which file."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the output that the block writes in an error that says only that the disk is full."""
    try:
        yield
    except Exception as error:
        known = error if isinstance(error, LlmctlError) else untranslated(error)
        if not isinstance(known, DiskFull) or known.where is not None:
            raise
        known.where = str(path)
        if known is error:
            raise
        raise known from error


class IntegrityError(LlmctlError):
    kind = "integrity"
    exit_code = 5


class DivergedError(LlmctlError):
    kind = "diverged"
    exit_code = 6


class BusyError(LlmctlError):
    kind = "busy"
    exit_code = 7


class GateError(LlmctlError):
    kind = "gate"
    exit_code = 10


class Stopped(LlmctlError):
    kind = "stopped"
    exit_code = 75


class Terminated(BaseException):
    """Raised on SIGTERM, so that partial output is cleaned up."""


_ENVIRONMENT_HINTS: Final = {
    errno.ENOSPC: "free some disk space, then run the command again",
    errno.EDQUOT: "free some disk space, then run the command again",
    errno.EACCES: "change the permissions, or choose another path",
    errno.EPERM: "change the permissions, or choose another path",
    errno.EROFS: "choose a writable path",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or use a file system that holds larger files",
    errno.EIO: "the disk reports errors: check it, or choose a path on another",
    errno.EISDIR: "move the folder away: a file belongs there",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
    errno.ENFILE: "close other programs: the system's limit on open files is reached",
}
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NATIVE_ERRNO: Final = re.compile(r"\((?:os error|Errno) (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""How Rust (safetensors, tokenizers) and Arrow write the number of an operating-system error in their messages."""

PANIC: Final = "PanicException"
"""The type, derived from `BaseException`, that pyo3 raises for a panic in Rust."""

_CUT_SHORT: Final = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says where a disk is full, without the number of the error."""


def errno_of(error: BaseException) -> int | None:
    """The number of the operating-system error behind an exception, also of libraries that only spell it out."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NATIVE_ERRNO.search(str(error)) if isinstance(error, Exception) else None
    return int(found[1] or found[2]) if found else None


def untranslated(error: BaseException) -> LlmctlError:
    """Convert any other exception at the end of a process: an operating-system error, or a bug."""
    number = errno_of(error)
    if number in _FULL:
        named = str(error.filename) if isinstance(error, OSError) and error.filename else None
        return DiskFull(os.strerror(number), where=named, hint=_ENVIRONMENT_HINTS[number])
    if number in _ENVIRONMENT_HINTS:
        place = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return EnvironmentFault(f"{os.strerror(number)}{place}", hint=_ENVIRONMENT_HINTS[number])
    if number == errno.ENAMETOOLONG:
        place = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return UsageError(f"{os.strerror(number)}{place}", hint="choose a shorter name")
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return UsageError("a path contains a NUL character", hint="choose another name")
    if isinstance(error, OSError) and _CUT_SHORT.search(str(error)):
        return DiskFull(
            "a file could not be written in full: the disk is full, or a limit on file sizes is reached",
            hint="free some disk space, or raise the limit (ulimit -f), then run the command again",
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return EnvironmentFault("not enough memory", hint="use a smaller batch or model, or shorter blocks")
    if type(error).__name__ == PANIC:
        return IntegrityError(
            f"a library fails on a file or a text: {str(error).strip() or PANIC}",
            hint="check the tokenizer's files; --debug shows where",
        )
    if package := _imported(error):
        first = next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
        return EnvironmentFault(
            f"the package {package} cannot be imported: {first}",
            hint="install it again; if the message names an environment variable, unset it",
        )
    return LlmctlError(f"{type(error).__name__}: {error}", hint="this is a bug in llmctl; --debug shows where")


def _imported(error: BaseException) -> str | None:
    """The package of others that was being imported when the error was raised."""
    package, frame = None, error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        name = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if name == "llmctl":
            package = None
        elif package is None and code.co_name == "<module>" and "site-packages" in code.co_filename:
            package = name
        frame = frame.tb_next
    return package
