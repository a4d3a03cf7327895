"""What can be found wrong with a `preprocess` before the data is read: imports nothing heavy, writes nothing."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.data.formats import Bad
from llmctl.data.read import ReadContext, parse_columns, plain_fields, scan
from llmctl.data.sources import STDIN, InputSource, find_sources
from llmctl.data.spec import TOKENIZERS
from llmctl.errors import ConfigError, DataError, ErrorCollector, Fault, MissingField, UsageError
from llmctl.models import hub
from llmctl.models.spec import HUB
from llmctl.registry import near
from llmctl.store import atomic
from llmctl.store.prepared import MANIFEST
from llmctl.tasks.spec import Task
from llmctl.workflows.preprocess.spec import PreprocessConfig

PEEKED_SOURCES: Final = 64
"""Inputs whose first record is looked at before anything slow starts."""
UNPACKED: Final = 4
"""How many times its size a compressed input takes, about."""


@dataclass(frozen=True, slots=True)
class PreprocessPlan:
    """What was found before anything slow starts."""

    task: Task
    sources: tuple[InputSource, ...]
    tokenizer: Path | None
    """The folder of a given tokenizer; None where one is trained."""
    notes: tuple[str, ...]
    input_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {
            "task": self.task.name,
            "inputs": [
                {"path": STDIN if source.path is None else source.name, "format": source.format}
                for source in self.sources
            ],
            "input_bytes": self.input_bytes,
            "tokenizer": "trained here" if self.tokenizer is None else str(self.tokenizer),
        }


def preflight(config: PreprocessConfig, *, force: bool, offline: bool) -> PreprocessPlan:
    """Check everything that can be checked without reading the data; no torch, nothing written.

    Raises all that is wrong: `UsageError` and `ConfigError` for what was asked, `DataError` for a first record that
    cannot be used, `EnvironmentFault` for the place, `IntegrityError` for a given tokenizer that would run code.
    """
    collector = ErrorCollector()
    collector.check("encoding", _check_encoding, config.encoding)
    collector.check("splits", _check_fractions, config)
    sources = tuple(
        collector.check("inputs", find_sources, config.inputs, config.source_file, config.target_file) or ()
    )
    # A built-in data set knows its task: where an input is not found, a task that is not named is not missed.
    task = collector.check("task", _task, config, sources) if sources or config.task else None
    if task is not None:
        collector.check("columns", _check_columns, config, task)
        collector.check("inputs", _check_kinds, task, sources)
    if task is not None and config.on_bad_record == "fail" and collector.ok:
        collector.check("inputs", _check_first_records, config, task, sources)
    collector.check("out", _check_out, config, sources, force=force)
    look = collector.ok or not config.tokenizer.startswith(HUB)
    tokenizer = collector.check("tokenizer", _tokenizer, config, offline=offline) if look else None
    collector.raise_all()
    assert task is not None
    assert tokenizer is not None
    folder, notes = tokenizer
    return PreprocessPlan(task, sources, folder, tuple(notes), _unpacked_bytes(sources))


def _check_kinds(task: Task, sources: Iterable[InputSource]) -> None:
    """Raise `UsageError` for files that hold no records of the task."""
    for source in sources:
        if source.format == "text":
            plain_fields(source, task.record_of if task.packed else None)
    if any(source.format == "pair" for source in sources) and {c.name for c in task.columns} != {"source", "target"}:
        raise UsageError(f"--source-file and --target-file make records of translation, not of {task.name}")


def _check_out(config: PreprocessConfig, sources: Iterable[InputSource], *, force: bool) -> None:
    atomic.refuse_existing(config.out, force=force, marker=MANIFEST)
    folders = [Path(word) for word in config.inputs if Path(word).is_dir()]
    atomic.refuse_same(config.out, [*folders, *(path for source in sources for path in source.paths)])
    atomic.check_writable(config.out, bytes_needed=2 * _unpacked_bytes(sources))


def _check_encoding(name: str) -> None:
    try:
        known = codecs.lookup(name)
    except LookupError:
        hint = "utf-8, utf-16, latin-1, cp1252, gb18030, big5, shift_jis, …"
        raise ConfigError([Fault("encoding", f"no encoding is named {name!r}", hint)]) from None
    if not known._is_text_encoding or known.incrementaldecoder is None:
        raise ConfigError([Fault("encoding", f"{name!r} is no encoding of text")])


def _check_fractions(config: PreprocessConfig) -> None:
    held_out = config.splits.validation + config.splits.test
    if held_out >= 1:
        raise ConfigError([Fault("splits", f"validation + test is {held_out:g}, nothing is left to train on")])


def _check_columns(config: PreprocessConfig, task: Task) -> None:
    known = ["id", *(column.name for column in task.columns)]
    faults = [
        Fault("columns", f"{task.name} has no field {name!r}", near(name, known) or f"its fields: {', '.join(known)}")
        for name in parse_columns(config.columns)
        if name not in known
    ]
    if faults:
        raise ConfigError(faults)


def _task(config: PreprocessConfig, sources: Iterable[InputSource]) -> Task:
    known = {source.task for source in sources if source.task}
    if config.task is None and len(known) != 1:
        raise UsageError("--task is required", hint=f"tasks: {', '.join(registry.table('tasks').entries)}")
    task: Task = registry.load("tasks", config.task or known.pop())()
    return task


def _unpacked_bytes(sources: Iterable[InputSource]) -> int:
    """About how much text there is. Standard input counts nothing."""
    return sum(
        path.stat().st_size * (UNPACKED if path.suffix in (".gz", ".zst", ".parquet") else 1)
        for source in sources
        for path in source.paths
    )


def _tokenizer(config: PreprocessConfig, *, offline: bool) -> tuple[Path | None, list[str]]:
    """The folder of a given tokenizer, with what had to be decided about it; None for one that is trained."""
    if config.tokenizer in TOKENIZERS:
        from llmctl.data.tokenizers import check_vocabulary

        check_vocabulary(config.tokenizer, config.vocab_size)
        return None, []
    from llmctl.store.tokenizers import find_tokenizer, settings_of

    if config.tokenizer.startswith(HUB):
        place = hub.folder(config.tokenizer, offline=offline, patterns=hub.TOKENIZER_PATTERNS)
    else:
        place = Path(config.tokenizer).expanduser()
    folder = find_tokenizer(place)
    return folder, settings_of(folder)[1]


def _check_first_records(config: PreprocessConfig, task: Task, sources: tuple[InputSource, ...]) -> None:
    """Names of columns are wrong in the first record already, or not at all."""
    for source in sources[:PEEKED_SOURCES]:
        if source.path is not None:
            # By lines, so that no more than the beginning of a plain text is read.
            context = read_context_of(config, task)
            context.document = "line"
            with contextlib.closing(scan([source], context)) as items:
                first = next(items, None)
            if isinstance(first, Bad):
                raise with_way_out(first.error, first=True)


def read_context_of(config: PreprocessConfig, task: Task) -> ReadContext:
    return ReadContext(
        check=task.check,
        rename=parse_columns(config.columns),
        wanted=[column.name for column in task.columns],
        fields_of=task.record_of if task.packed else None,
        document=config.document,
        encoding=config.encoding,
    )


def with_way_out(error: DataError, *, first: bool = False) -> DataError:
    """The error of a record; where it knows no cure of its own, with the options that help. `first`: nothing that can be
    used was read before it."""
    leave = "or go on without such records: --on-bad-record skip|reject"
    if isinstance(error, MissingField):
        error.hint = f"name the columns: --columns {error.field}=YOUR_COLUMN" + ("" if first else f"; {leave}")
    elif error.hint is None:
        error.hint = f"mend it; {leave}"
    return error
