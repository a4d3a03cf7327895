"""The border to libraries that open, build or run what others made: whatever they raise becomes an error with a file.

transformers, tokenizers, safetensors, gguf and jinja raise many types for a damaged or hostile folder: `KeyError`,
`AssertionError`, `ZeroDivisionError`, and tokenizers even a Rust panic, which is not an `Exception`. All of them mean the
same to a user: this folder cannot be used. Code of our own stays outside a border, so that its faults remain bugs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.errors import PANIC, EnvironmentFault, IntegrityError, LlmctlError, untranslated
from llmctl.store.safety import read_json

LONGEST: Final = 300
"""Characters of a library's message that are shown."""

_OF_THE_FOLDER: Final = frozenset(
    [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL]
)
"""Codes of operating-system errors that a damaged folder causes; all others are of the machine."""
_INSTALL: Final = re.compile(r"pip install[^`'\n.]*")
_SETTINGS: Final = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")


@contextlib.contextmanager
def border(action: str, where: Path | str, *, hint: str | None = None, silent: bool = False) -> Iterator[None]:
    """Turn anything that is raised in the block into an `LlmctlError` with the place `where`, a folder or a file.

    `action` names what failed ("the model cannot be opened"). If the message of the library names a setting of the
    folder, the place is that file and key. `silent` drops what the library writes to standard error itself, such as the
    text of a panic. Raises `IntegrityError`, or `EnvironmentFault` for a missing package, memory, disk or permission.
    Our own errors, a closed pipe and an interrupt pass unchanged.
    """
    try:
        with _SILENCE if silent else contextlib.nullcontext():
            yield
    except (LlmctlError, BrokenPipeError):
        raise
    except Exception as error:
        raise translated(error, action, where, hint=hint) from error
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise translated(error, action, where, hint=hint) from error


def running(model: Any) -> contextlib.AbstractContextManager[None]:
    """The border around a call of a `PreTrainedModel`; none around one that was built here instead of opened."""
    folder = getattr(model, "name_or_path", "")
    if not folder:
        return contextlib.nullcontext()
    return border(f"the model {type(model).__name__} fails", folder, hint="--debug shows where; check its config.json")


def translated(error: BaseException, action: str, where: Path | str, *, hint: str | None = None) -> LlmctlError:
    """The error of ours for what a library raised; see `border`."""
    if isinstance(error, ImportError):
        install = _INSTALL.search(str(error))
        return EnvironmentFault(
            f"{action}: {summary(error)}",
            where=str(where),
            hint=install[0].strip() if install else f"pip install {error.name}" if error.name else hint,
        )
    of_the_folder = isinstance(error, OSError) and error.errno in _OF_THE_FOLDER
    if isinstance(error, Exception) and not of_the_folder:
        fault = untranslated(error)
        if fault.kind == EnvironmentFault.kind:
            return fault
    if isinstance(error, OSError) and error.errno is not None and not of_the_folder:
        return EnvironmentFault(f"{action}: {error.strerror}", where=str(error.filename or where))
    return IntegrityError(f"{action}: {summary(error)}", where=_place(str(error), where), hint=hint)


def summary(error: BaseException) -> str:
    """The first line of a library's message that says something, with the type if it says nothing by itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:  # a heading, such as "Validation error for field 'hidden_size':"
        text = f"{text} {lines[1]}"
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    plain = type(error) in (RuntimeError, ValueError, OSError, Exception) and len(text) > len("a word or two")
    return text if plain else f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(message: str, where: Path | str) -> str:
    """`where`, or the file and key of its settings that the message names."""
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    for name in _SETTINGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = read_json(path)
        except IntegrityError:
            return str(path)
        if key := _named(message.replace(str(folder), ""), settings):
            return f"{path}:{key}"
    return str(where)


def _named(message: str, settings: Mapping[str, Any]) -> str | None:
    """The key that a message names as a word; else the key whose text value it quotes, such as an unknown dtype."""
    words, quoted = set(re.findall(r"\w+", message)), set(re.findall(r"['\"`](.+?)['\"`]", message))
    keys = [key for key in settings if "_" in key and key in words]
    values = [key for key, value in settings.items() if isinstance(value, str) and value in quoted and len(value) > 3]
    found = sorted(keys, key=len) or sorted(values, key=len)
    return found[-1] if found else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars, notes and warnings; what they report is checked and raised instead.

    Notes of a library may quote a file, and so hold control characters for the terminal.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


class _Silence:
    """Sends what is written to file descriptor 2 to nowhere, while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: int | None = None
        """The file that standard error was; None: it is closed."""

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            try:
                self._kept = os.dup(2)
            except OSError:
                self._kept = None
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._kept is not None:
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = None


_SILENCE: Final = _Silence()
"""A Rust panic prints to standard error before it is raised."""
