"""`preprocess`: read, clean, split, train or load a tokenizer, encode. Creates a prepared folder atomically."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmctl import __version__
from llmctl.data.filter import RecordFilter
from llmctl.data.filters.spec import FILTERS, open_filters
from llmctl.data.judge import DroppedRecord
from llmctl.data.read import ReadContext, scan
from llmctl.data.sources import STDIN, InputSource, shown
from llmctl.data.spec import SPLITS
from llmctl.data.split import why_empty
from llmctl.errors import DataError, GateError
from llmctl.store import atomic, integrity
from llmctl.store.locks import locked
from llmctl.store.prepared import MANIFEST, Counts, InputFile, LengthStats, Manifest, TokenizerFacts, data_card
from llmctl.types import Event, EventSink
from llmctl.workflows.preprocess.bad_records import REJECTS, BadRecords
from llmctl.workflows.preprocess.checks import PreprocessPlan, preflight, read_context_of, split_files
from llmctl.workflows.preprocess.findings import FACTS, facts_of, findings
from llmctl.workflows.preprocess.spec import PreprocessConfig

if TYPE_CHECKING:
    from llmctl.data.encode import Workers

__all__ = ["PreprocessPlan", "PreprocessResult", "preflight", "preprocess"]

REPORT_EVERY_SECONDS: Final = 0.5
SAMPLES: Final = 20
"""Dropped records kept for the report, of each reason."""


@dataclass(frozen=True, slots=True)
class PreprocessResult:
    """The prepared folder and its manifest."""

    manifest: Manifest
    out: Path

    def document(self) -> dict[str, Any]:
        """The fields of the verb's JSON document."""
        facts = self.manifest.model_dump(mode="json")
        names = ("records", "splits", "split_by", "tokens", "tokenizer", "inputs", "labels", *FACTS, "seconds")
        return {**{name: facts[name] for name in names if name in facts}, "task": facts["task"], "out": str(self.out)}


def refusal(document: Mapping[str, Any]) -> GateError | None:
    """The error for rejected records, from the document; the folder is created nevertheless."""
    rejected = document.get("records", {}).get("rejected", 0)
    if not rejected:
        return None
    message = "1 record was" if rejected == 1 else f"{rejected:,} records were"
    return GateError(f"{message} rejected", hint=f"see {Path(document['out']) / REJECTS} for each with its reason")


def preprocess(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, *, force: bool = False
) -> PreprocessResult:
    """Create the prepared folder. Raises `DataError` for bad data, `BusyError` if another process is creating it."""
    begin = time.monotonic()
    for note in plan.notes:
        emit(Event("note", {"text": note}))
    _clear_leftovers(config.out, emit)
    from llmctl.data.encode import Workers, worker_count

    workers = Workers(worker_count(config.workers, plan.input_bytes))
    with workers, atomic.atomic_folder(config.out, force=force, marker=MANIFEST) as folder, locked(folder):
        result = _read_all(config, plan, emit, folder)
        for name, text in findings(result.context.notes, result.split_by, result.facts, result.labels):
            emit(Event(name, {"text": text}))
        inputs = _inputs(plan.sources, result.context)
        kind = _make_tokenizer(config, plan, emit, folder, result)
        tokens = _encode(config, plan, emit, folder, result, workers)
        kept = sum(result.splits.values())
        for split in _check_splits(config, result):
            why = why_empty(split, kept, config.splits)
            text = f"the {split} split is empty: {'no file is named so' if result.split_by == 'files' else why}"
            emit(Event("warning", {"text": text}))
        written = (each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("."))
        files = integrity.hashes(folder, written)
        manifest = Manifest(
            llmctl=__version__,
            task=plan.task.name,
            task_version=plan.task.version,
            records=Counts(read=result.read, kept=kept, dropped=dict(result.dropped), rejected=result.rejected),
            splits=result.splits,
            tokens=tokens,
            lengths=_lengths(folder, result),
            tokenizer=kind,
            inputs=tuple(inputs),
            labels=tuple(sorted(result.labels)) if plan.task.labelled else (),
            block_size=config.block_size if plan.task.packed else None,
            text_sha256={split: files[f"text/{split}-00000.parquet"].sha256 for split in SPLITS},
            config=config.model_dump(mode="json"),
            seconds=round(time.monotonic() - begin, 3),
            split_by=result.split_by,
            **result.facts,
            files=files,
        )
        atomic.write_text(folder / "README.md", data_card(manifest))
        readme = integrity.hashes(folder, [folder / "README.md"])
        manifest = manifest.model_copy(update={"files": dict(sorted((files | readme).items()))})
        atomic.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return PreprocessResult(manifest, config.out)


def _clear_leftovers(out: Path, emit: EventSink) -> None:
    """Remove leftovers of a killed process; raise `BusyError` if a running one is creating this folder."""
    import shutil

    for each in sorted(out.absolute().parent.glob(f"{atomic.TEMPORARY}*")):
        if each.name.startswith(f"{atomic.TEMPORARY}{out.name}-") and (each / ".lock").is_file():
            with locked(each):
                shutil.rmtree(each)
            emit(Event("note", {"text": f"removed leftovers of an interrupted preprocess: {each.name}"}))


@dataclass(slots=True)
class _ReadResult:
    """The result of reading: counts, labels, splits."""

    context: ReadContext
    read: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    splits: dict[str, int] = field(default_factory=dict)
    characters: dict[str, int] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    """Label -> records of the train split."""
    split_by: Literal["files", "input", "record"] = "input"
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Further counts of the manifest: what was changed, unused or found, by kind."""
    samples: defaultdict[str, list[DroppedRecord]] = field(default_factory=lambda: defaultdict(list))
    """The first `SAMPLES` records dropped for each reason."""

    def drop(self, record: DroppedRecord) -> None:
        self.dropped[record.reason] += 1
        if len(self.samples[record.reason]) < SAMPLES:
            self.samples[record.reason].append(record)


def _read_all(config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, folder: Path) -> _ReadResult:
    """Read, clean, filter and write every record."""
    from llmctl.data.text import TextWriter

    task = plan.task
    columns = {column.name: column.kind for column in task.columns}
    by_file = split_files(config, plan.sources)
    result = _ReadResult(read_context_of(config, task), split_by="files" if any(by_file) else config.splits.hash)
    asked = None if task.packed else [column.name for column in task.prompt_columns()]
    filters = open_filters({row.setting: getattr(config, row.setting) for row in FILTERS})
    record_filter = RecordFilter(
        task, list(columns), config.clean, config.dedup, config.splits, asked=asked, filters=filters
    )
    progress = _Progress(emit, "read")
    labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    bad = BadRecords(config.on_bad_record, folder, result.dropped)
    pairs = zip(plan.sources, by_file, strict=True)
    items = ((item, split) for source, split in pairs for item in scan([source], result.context))
    with TextWriter(folder / "text", columns) as text, bad:
        for item, split in items:
            result.read += 1
            progress.add(1)
            try:
                found = record_filter.apply(item, split)
            except DataError as error:
                bad.add(error, item)
                continue
            if isinstance(found, DroppedRecord):
                result.drop(found)
                continue
            text.add(found.split, found.record, found.characters)
            if found.label is not None:
                labels[found.split][found.label] += 1
        bad.end()
        progress.end()
    result.splits, result.characters = dict(text.records), dict(text.characters)
    if record_filter.distinct_inputs == 1 and not result.splits["train"] and config.splits.rule != "files":
        place = next(split for split in SPLITS if result.splits[split])
        _swap_train(folder / "text", place)
        for counts in (result.splits, result.characters):
            counts["train"], counts[place] = counts[place], counts["train"]
        labels["train"], labels[place] = labels[place], labels["train"]
        warning = "all records ask the same, so none can be held out: they are in the train split"
        emit(Event("warning", {"text": warning}))
    result.labels = labels["train"]
    result.rejected = bad.rejected
    if not result.read:
        raise DataError("no records", where=", ".join(source.name for source in plan.sources))
    result.facts = facts_of(result.context, record_filter, result.labels)
    _check_splits(config, result)
    return result


def _swap_train(folder: Path, split: str) -> None:
    """Swap the text of the train split with that of another one."""
    one, other, between = (folder / f"{name}-00000.parquet" for name in ("train", split, "swap"))
    one.replace(between)
    other.replace(one)
    between.replace(other)


def _check_splits(config: PreprocessConfig, result: _ReadResult) -> list[str]:
    """The splits with a fraction above 0 that got no records.

    Raises `DataError` where there is nothing to train on, or where whole files leave nothing held out.
    """
    kept = sum(result.splits.values())
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.dropped.items()))
        rejected = f", {result.rejected:,} rejected" if result.rejected else ""
        raise DataError(f"none of {result.read:,} records is left: {reasons or 'none dropped'}{rejected}")
    requested = {"validation": config.splits.validation, "test": config.splits.test}
    wanted = [split for split, fraction in requested.items() if fraction > 0]
    empty = [split for split in wanted if not result.splits[split]]
    whole = wanted and empty == wanted and result.context.whole_files == result.read
    # Whole files as documents are few and can be split further; other small data may be intended.
    if not result.splits["train"] or (whole and result.split_by != "files"):
        count = "the only record" if kept == 1 else f"all {kept:,} records"
        place = next(split for split in SPLITS if result.splits[split])
        raise DataError(
            f"{count} fell into the split {place}: there are too few to split",
            hint="give more records; for plain text --document paragraph or line; or hold nothing out: "
            "--set splits.validation=0 --set splits.test=0",
        )
    return empty


def _inputs(sources: Iterable[InputSource], context: ReadContext) -> list[InputFile]:
    """The input files with their sizes and hashes."""
    found = []
    for source in sources:
        if source.path is None:
            found.append(InputFile(path=STDIN, bytes=context.stdin_bytes, sha256=context.stdin_hash.hexdigest()))
        for path in source.paths:
            name = source.name if source.task else shown(path)
            found.append(InputFile(path=name, bytes=path.stat().st_size, sha256=atomic.sha256(path)))
    return found


def _make_tokenizer(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, folder: Path, result: _ReadResult
) -> TokenizerFacts:
    """Train a tokenizer on the train split, or copy an existing one."""
    from llmctl.data import tokenizers
    from llmctl.data.codes import open_codes
    from llmctl.data.text import read_text

    out = folder / "tokenizer"
    if plan.tokenizer is not None:
        tokenizers.import_tokenizer(plan.tokenizer, out)
        known = open_codes(out)
        kind = str(type(known.tokenizer.model).__name__).lower()
    else:
        kind, characters = config.tokenizer, result.characters["train"]
        limit = tokenizers.sample_size(kind, config.vocab_size)
        emit(Event("progress", {"stage": "tokenizer", "characters": min(characters, limit)}))
        if characters > limit > 0:
            message = (
                f"training the tokenizer on {limit:,} characters, sampled evenly from {characters:,} in the train split"
            )
            emit(Event("note", {"text": message}))

        def texts() -> Iterator[str]:
            for record in read_text(folder / "text" / "train-00000.parquet"):
                for segment in plan.task.segments(record):
                    yield segment.text

        tokenizers.save(tokenizers.train(kind, texts, characters, config.vocab_size), out)
        known = open_codes(out)
    size = known.tokenizer.get_vocab_size(with_added_tokens=True)
    return TokenizerFacts(kind=kind, vocab_size=size, sha256=atomic.sha256(out / "tokenizer.json"))


def _encode(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, folder: Path, result: _ReadResult, workers: Workers
) -> dict[str, int]:
    """Encode every split; records with a segment of more than `max_length` tokens are dropped from the text too."""
    from llmctl.data.codes import open_codes
    from llmctl.data.encode import TokenEncoder, encode_split
    from llmctl.data.text import keep

    encoder = TokenEncoder(open_codes(folder / "tokenizer"))
    workers.use(folder / "tokenizer")
    progress = _Progress(emit, "encode", total=sum(result.splits.values()))
    tokens: dict[str, int] = {}
    for split in SPLITS:
        path = folder / "text" / f"{split}-00000.parquet"
        encoded = encode_split(
            plan.task,
            path,
            encoder,
            folder / "tokens",
            split,
            labels=sorted(result.labels) if plan.task.labelled else (),
            max_length=config.max_length,
            workers=workers,
            done=progress.add,
        )
        tokens[split] = encoded.tokens
        if too_long := int((~encoded.kept).sum()):
            keep(path, encoded.kept.tolist())
            result.dropped["too_long"] += too_long
            result.splits[split] -= too_long
    progress.end()
    return tokens


def _lengths(folder: Path, result: _ReadResult) -> dict[str, LengthStats]:
    """Length statistics of each split that has records."""
    from llmctl.data.lengths import measure
    from llmctl.data.tokens import TokenStore

    return {split: measure(TokenStore.open(folder / "tokens", split)) for split in SPLITS if result.splits[split]}


class _Progress:
    """Emits the number of records done, at most every `REPORT_EVERY_SECONDS`."""

    def __init__(self, emit: EventSink, stage: str, total: int | None = None) -> None:
        self._emit = emit
        self._fields: dict[str, Any] = {"stage": stage} | ({} if total is None else {"total": total})
        self._records = 0
        self._emitted_at = time.monotonic()

    def add(self, records: int) -> None:
        self._records += records
        if time.monotonic() - self._emitted_at >= REPORT_EVERY_SECONDS:
            self.end()

    def end(self) -> None:
        self._emit(Event("progress", {**self._fields, "records": self._records}))
        self._emitted_at = time.monotonic()
