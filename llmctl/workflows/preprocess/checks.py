"""Checks of `preprocess` before the data is read: imports nothing heavy, writes nothing."""

from __future__ import annotations

import codecs
import contextlib
import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl import registry, reports
from llmctl.data import ray_workers
from llmctl.data.cleaning.filters.languages import check_package
from llmctl.data.cleaning.split import splits_of_files
from llmctl.data.cleaning.words import check_segmenter, rules_of
from llmctl.data.reading.formats import Bad
from llmctl.data.reading.read import parse_columns, plain_fields, scan
from llmctl.data.reading.sources import STDIN, InputSource, find_sources, shown, unread
from llmctl.data.spec import CHAT_ROLES, TOKENIZERS, CleanRules
from llmctl.errors import ConfigError, DataError, ErrorCollector, Fault, MissingField, UsageError
from llmctl.models import hub, resolve
from llmctl.models.spec import HUB
from llmctl.registry import near
from llmctl.store import atomic
from llmctl.store.prepared import MANIFEST, is_prepared
from llmctl.tasks.spec import Task
from llmctl.workflows.preprocess.context import read_context_of, with_hint
from llmctl.workflows.preprocess.findings import listed
from llmctl.workflows.preprocess.gates import check_gates
from llmctl.workflows.preprocess.spec import PreprocessConfig

PEEKED_SOURCES: Final = 64
"""Inputs whose first record is checked before anything slow starts."""
PEEKED_RECORDS: Final = 9
"""Records that are looked at after a bad first one."""
UNPACKED: Final = 4
"""Estimated size of a compressed input, unpacked, relative to its file."""


@dataclass(frozen=True, slots=True)
class PreprocessPlan:
    """A configuration that passed all checks, with what they found."""

    config: PreprocessConfig
    task: Task
    sources: tuple[InputSource, ...]
    tokenizer: Path | None
    """The folder of an existing tokenizer; None where one is trained."""
    notes: tuple[str, ...]
    input_bytes: int
    clean: CleanRules
    """With the content of the files that the settings name."""

    @property
    def template(self) -> Path | None:
        """The folder of the existing tokenizer if its chat template knows tools."""
        if self.tokenizer is None:
            return None
        from llmctl.store.tokenizers import template_knows_tools

        return self.tokenizer if template_knows_tools(self.tokenizer) else None

    def to_dict(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {
            "task": self.task.name,
            "inputs": [{"path": name, "format": source.format} for source in self.sources for name in _names(source)],
            "input_bytes": self.input_bytes,
            "tokenizer": "trained here" if self.tokenizer is None else str(self.tokenizer),
        }


def _names(source: InputSource) -> list[str]:
    """The files of an input as a person knows them."""
    if source.path is None:
        return [STDIN]
    return [shown(path) for path in source.paths] if source.format == "pair" else [source.name]


def preflight(config: PreprocessConfig, *, force: bool, offline: bool) -> PreprocessPlan:
    """Check everything that needs neither the data nor torch; writes nothing.

    Raises all faults at once: `UsageError` and `ConfigError` for settings, `DataError` for an unusable first record,
    `EnvironmentFault` for the output folder, `IntegrityError` for a tokenizer that would run code.
    """
    collector = ErrorCollector()
    collector.check("encoding", _check_encoding, config.encoding)
    collector.check("splits", _check_fractions, config)
    if config.executor == "ray":
        collector.check("executor", ray_workers.check_installed)
    sources = tuple(
        collector.check("inputs", find_sources, config.inputs, config.source_file, config.target_file) or ()
    )
    # A built-in data set implies its task, so a missing --task is only reported once the inputs are found.
    task = collector.check("task", _task, config, sources) if sources or config.task else None
    if task is not None:
        collector.check("columns", _check_columns, config, task)
        collector.check("inputs", _check_kinds, task, config.inputs, sources)
    if task is not None and config.on_bad_record == "fail" and collector.ok:
        collector.check("inputs", _check_first_records, config, task, sources)
        collector.check("splits.from", split_files, config, sources)
    clean = collector.check("clean", _clean_rules, config)
    collector.check("filters", _check_filters, config, task)
    collector.check("require", check_gates, config)
    for key, path in (("junit", config.junit), ("markdown", config.markdown)):
        if path is not None:
            collector.check(key, reports.check, path, _inputs_of(sources), force=force)
    if config.junit is not None and config.markdown is not None:
        collector.check("markdown", atomic.refuse_same, config.markdown, [config.junit])
    collector.check("out", _check_out, config, sources, force=force)
    look = collector.ok or not resolve.is_costly(config.tokenizer)
    tokenizer = collector.check("tokenizer", _tokenizer, config, offline=offline) if look else None
    collector.raise_all()
    assert task is not None
    assert tokenizer is not None
    assert clean is not None
    folder, notes = tokenizer
    if "zh" in config.clean.stopwords and config.clean.segment == "none":
        notes.append("stop words are removed between blanks, and Chinese has none: --segment jieba cuts it into words")
    notes += _notes(config, sources)
    return PreprocessPlan(config, task, sources, folder, tuple(notes), _unpacked_bytes(sources), clean)


def _notes(config: PreprocessConfig, sources: Sequence[InputSource]) -> Iterator[str]:
    """What is not read of the given folders, and files without a split where names assign it."""
    if left := unread(config.inputs, sources):
        yield f"files that are not read: {listed(left)}"
    splits = split_files(config, sources)
    others = [source.name for source, split in zip(sources, splits, strict=True) if split is None]
    if others and any(splits):
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        yield f"{others[0]}{more}: not named after one split, so the records are assigned by content"


def _check_filters(config: PreprocessConfig, task: Task | None) -> None:
    """Raise what the filters lack: `MissingPackage`, `UsageError` for a missing file, `ConfigError` for an unknown side."""
    if config.languages:
        check_package()
    if isinstance(config.languages, dict) and task is not None:
        roles = ("system", *CHAT_ROLES[1:]) if task.answer_role == "assistant" else ("source", "target", "text")
        for role in config.languages:
            if role not in roles:
                raise ConfigError([Fault("languages", f"no text is called {role!r}", f"texts: {', '.join(roles)}")])
    for name in config.decontaminate:
        if not is_prepared(Path(name)):
            find_sources([name])


def _inputs_of(sources: Iterable[InputSource]) -> list[Path]:
    return [path for source in sources for path in source.paths]


def _clean_rules(config: PreprocessConfig) -> CleanRules:
    """The rules of cleaning with the content of their files. Raises what `check_segmenter` and `rules_of` raise."""
    check_segmenter(config.clean)
    return rules_of(config.clean)


def _check_kinds(task: Task, inputs: Iterable[str], sources: Iterable[InputSource]) -> None:
    """Raise `UsageError` for files that cannot contain records of the task."""
    for word in inputs:
        if is_prepared(Path(word)):
            text = Path(word) / "text"
            raise UsageError(
                f"{word} is prepared already", hint=f"train --data {word} reads it; its records are in {text}"
            )
    for source in sources:
        if source.format == "text":
            plain_fields(source, task.record_of if task.packed else None)
    if any(source.format == "pair" for source in sources) and {c.name for c in task.columns} != {"source", "target"}:
        raise UsageError(f"two aligned files are for translation, not for {task.name}")


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
        raise ConfigError([Fault("encoding", f"no encoding named {name!r}", hint)]) from None
    if not known._is_text_encoding or known.incrementaldecoder is None:
        raise ConfigError([Fault("encoding", f"{name!r} is not a text encoding")])


def _check_fractions(config: PreprocessConfig) -> None:
    held_out = config.splits.validation + config.splits.test
    if held_out >= 1:
        raise ConfigError([Fault("splits", f"validation + test is {held_out:g}, which leaves nothing to train on")])


def split_files(config: PreprocessConfig, sources: Sequence[InputSource]) -> list[str | None]:
    """The split of each input by its name; all None where a hash of the content assigns the records.

    Raises `UsageError` if names are to decide and one says nothing.
    """
    nothing: list[str | None] = [None] * len(sources)
    if config.splits.rule == "content":
        return nothing
    named = splits_of_files([None if source.task or source.path is None else Path(source.name) for source in sources])
    if config.splits.rule == "files":
        if None in named:
            raise UsageError(
                f"the name of {sources[named.index(None)].name} is not that of one split",
                hint="name files or folders train, validation (valid, dev, val) and test, or use --set splits.from=auto",
            )
        return named
    return named if "train" in named and len(set(named) - {None}) > 1 else nothing


def _check_columns(config: PreprocessConfig, task: Task) -> None:
    known = ["id", *(column.name for column in task.columns), *task.also]
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
    """Estimated bytes of text. Standard input counts as 0."""
    return sum(
        path.stat().st_size * (UNPACKED if path.suffix in (".gz", ".zst", ".parquet") else 1)
        for source in sources
        for path in source.paths
    )


def _tokenizer(config: PreprocessConfig, *, offline: bool) -> tuple[Path | None, list[str]]:
    """The folder of an existing tokenizer, with notes about it; None for one to be trained."""
    if config.tokenizer in TOKENIZERS:
        from llmctl.data.tokenizing.tokenizers import check_vocabulary

        check_vocabulary(config.tokenizer, config.vocab_size)
        return None, []
    from llmctl.store.tokenizers import find_tokenizer, settings_of

    if config.tokenizer.startswith(HUB):
        place = hub.folder(config.tokenizer, offline=offline, patterns=hub.TOKENIZER_PATTERNS)
    else:
        place = resolve.converted(Path(config.tokenizer).expanduser())
    folder = find_tokenizer(place)
    return folder, settings_of(folder)[1]


def _check_first_records(config: PreprocessConfig, task: Task, sources: tuple[InputSource, ...]) -> None:
    """Check the first record of each input: wrong column names show there."""
    for source in sources[:PEEKED_SOURCES]:
        if source.path is not None:
            # Line by line, so that only the beginning of a plain text file is read.
            context = read_context_of(config, task)
            context.document = "line"
            if config.tool_calls == "template" and config.tokenizer not in TOKENIZERS:
                context.adapting.tool_calls = "template"  # whether its chat template knows tools shows when it is read
            with contextlib.closing(scan([source], context)) as items:
                first = next(items, None)
                if isinstance(first, Bad):
                    more = list(itertools.islice(items, PEEKED_RECORDS))
                    every = bool(more) and all(isinstance(item, Bad) for item in more)
                    asked = {column.name for column in task.prompt_columns()}
                    raise _first_error(first.error, source, asked, every=every)


def _first_error(error: DataError, source: InputSource, asked: Container[str], *, every: bool) -> DataError:
    """The error of the first record of an input; `asked`: fields that are no answer; `every`: the next ones are bad too, so
    that skipping helps nobody."""
    table = source.format in ("csv", "tsv")
    if isinstance(error, MissingField):
        with_hint(error, first=True)
        if table:
            error.hint = f"the first line is taken as the header; {error.hint}"
    elif every and error.hint is None:
        error.hint = f"every record looked at is bad: is this a {source.format} file with records of the task?"
        if error.message.endswith("is null") and (error.where or "").rpartition(":")[2] not in asked:
            error.hint = "a file without answers is for generate --input: leave it out here"
    return with_hint(error, first=True)
