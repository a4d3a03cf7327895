"""`preprocess`: read, clean, split, train or load a tokenizer, encode. Creates a prepared folder atomically."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmctl import __version__
from llmctl.data.cleaning.split import why_empty
from llmctl.data.reading.sources import STDIN, InputSource, shown
from llmctl.data.spec import SPLITS
from llmctl.errors import DataError, GateError
from llmctl.gates import GateResult
from llmctl.store import atomic, integrity
from llmctl.store.locks import locked
from llmctl.store.prepared import MANIFEST, Counts, InputFile, LengthStats, Manifest, data_card, hash_of
from llmctl.types import Event, EventSink
from llmctl.workflows.preprocess import continuing
from llmctl.workflows.preprocess.bad_records import REJECTS
from llmctl.workflows.preprocess.checks import PreprocessPlan, preflight, split_files
from llmctl.workflows.preprocess.findings import FACTS, facts_of, findings
from llmctl.workflows.preprocess.gates import checked, counts_of, missed, rows_of
from llmctl.workflows.preprocess.outcome import BAD_RECORD, SCRATCH
from llmctl.workflows.preprocess.report import Account, write_report
from llmctl.workflows.preprocess.spec import PreprocessConfig
from llmctl.workflows.preprocess.tokenizer import make_tokenizer

if TYPE_CHECKING:
    from llmctl.data.workers import Executor
    from llmctl.workflows.preprocess.outcome import ReadResult

__all__ = ["PreprocessPlan", "PreprocessResult", "preflight", "preprocess"]

REPORT_EVERY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class PreprocessResult:
    """The prepared folder and its manifest."""

    manifest: Manifest
    out: Path
    gates: Sequence[GateResult] = ()

    def document(self) -> dict[str, Any]:
        """The fields of the verb's JSON document."""
        facts = self.manifest.model_dump(mode="json")
        names = (
            "records",
            "splits",
            "split_by",
            "tokens",
            "lengths",
            "tokenizer",
            "inputs",
            "labels",
            *FACTS,
            "seconds",
        )
        found = {name: facts[name] for name in names if name in facts}
        gates = {"gates": rows_of(self.gates)} if self.gates else {}
        return {**found, **gates, "task": facts["task"], "out": str(self.out)}


def refusal(document: Mapping[str, Any]) -> GateError | None:
    """The error for rejected records, from the document; the folder is created nevertheless."""
    rejected = document.get("records", {}).get("rejected", 0)
    if not rejected or (document.get("gates") and missed(document)):
        return missed(document)
    message = "1 record was" if rejected == 1 else f"{rejected:,} records were"
    return GateError(f"{message} rejected", hint=f"see {Path(document['out']) / REJECTS} for each with its reason")


def preprocess(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, *, force: bool = False
) -> PreprocessResult:
    """Create the prepared folder. Raises `DataError` for bad data, `BusyError` if another process is creating it."""
    begin = time.monotonic()
    for note in plan.notes:
        emit(Event("note", {"text": note}))
    key = continuing.key_of(config, plan)
    again = continuing.leftover(config.out, None if force else key, emit)
    stays = None if key is None else continuing.stays(config.out, emit, force=force)
    with (
        atomic.atomic_folder(config.out, force=force, marker=MANIFEST, again=again, stays=stays) as folder,
        locked(folder),
        _executor(
            config, plan
        ) as executor,  # it ends first: nothing is written any more when the folder is decided about
    ):
        continuing.begin(folder, key)
        result = _read_all(config, plan, emit, folder, executor)
        for name, text in findings(result.read.notes, result.split_by, result.facts, result.labels):
            emit(Event(name, {"text": text}))
        inputs = _inputs(plan.sources, result.read)
        kind = make_tokenizer(plan, emit, folder, result.characters["train"])
        lengths = _encode(config, plan, emit, folder, result, executor)
        shutil.rmtree(folder / SCRATCH)
        kept = sum(result.splits.values())
        for split in _check_splits(config, result):
            why = why_empty(split, kept, config.splits)
            text = f"the {split} split is empty: {'no file is named so' if result.split_by == 'files' else why}"
            emit(Event("warning", {"text": text}))
        account = {
            "read": result.read.read,
            "kept": kept,
            "dropped": dict(result.read.dropped),
            "rejected": result.read.rejected,
        }
        gates = checked(config, counts_of(account, result.facts.get("found", {})))
        page = Account(
            task=plan.task.name,
            records=account,
            found=result.facts.get("found", {}),
            splits=result.splits,
            tokens={split: each.tokens for split, each in lengths.items()},
            labels=dict(result.labels.most_common()),
            samples=result.read.samples,
            gates=rows_of(gates),
            near=result.near,
        )
        write_report(folder, page, plan.task)
        written = (each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("."))
        files = integrity.hashes(folder, written)
        manifest = Manifest(
            llmctl=__version__,
            task=plan.task.name,
            task_version=plan.task.version,
            records=Counts(
                read=result.read.read, kept=kept, dropped=dict(result.read.dropped), rejected=result.read.rejected
            ),
            splits=result.splits,
            tokens={split: each.tokens for split, each in lengths.items()},
            lengths={split: lengths[split] for split in SPLITS if result.splits[split]},
            tokenizer=kind,
            inputs=tuple(inputs),
            labels=tuple(sorted(result.labels)) if plan.task.labelled else (),
            block_size=config.block_size if plan.task.packed else None,
            text_sha256={split: _hash_of(files, split) for split in SPLITS},
            config=config.model_dump(mode="json"),
            clean=plan.clean.model_dump(mode="json"),
            seconds=round(time.monotonic() - begin, 3),
            split_by=result.split_by,
            **result.facts,
            **({"near_duplicates": result.near} if result.near else {}),
            files=files,
        )
        atomic.write_text(folder / "README.md", data_card(manifest))
        readme = integrity.hashes(folder, [folder / "README.md"])
        manifest = manifest.model_copy(update={"files": dict(sorted((files | readme).items()))})
        manifest = manifest.model_copy(update={"sha256": hash_of(manifest)})
        atomic.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return PreprocessResult(manifest, config.out, gates)


def _executor(config: PreprocessConfig, plan: PreprocessPlan) -> Executor:
    from llmctl.data.workers import Workers, worker_count

    if config.executor == "ray":
        from llmctl.data.ray_workers import RayWorkers

        return RayWorkers(config.workers)
    return Workers(worker_count(config.workers, plan.input_bytes))


def _hash_of(files: Mapping[str, integrity.FileHash], split: str) -> str:
    """The hash of a split's text; of the hashes of its files if there are several."""
    hashes = [each.sha256 for name, each in files.items() if name.startswith(f"text/{split}-")]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass(slots=True)
class _Text:
    """The text that was written: counts of records, characters, labels."""

    read: ReadResult
    splits: dict[str, int]
    characters: dict[str, int]
    labels: Counter[str]
    """Label -> records of the train split."""
    split_by: Literal["files", "input", "record"]
    facts: dict[str, dict[str, int]]
    """Further counts of the manifest: what was changed, unused or found, by kind."""
    near: dict[str, float]
    """How near-duplicates were looked for."""


def _read_all(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, folder: Path, executor: Executor
) -> _Text:
    """Read, clean, filter and write every record; then take out those that repeat others."""
    from llmctl.workflows.preprocess.admission import Admission

    scratch = folder / SCRATCH
    by_file = split_files(config, plan.sources)
    read = _read_parts(config, plan, emit, folder, executor, by_file)
    if not read.read:
        raise DataError("no records", where=", ".join(source.name for source in plan.sources))
    admission = Admission(config, folder, scratch, read, by_files=any(by_file))
    admission.decide()
    distinct, repeated = admission.candidates.count_questions(labelled=plan.task.labelled)
    tally = admission.apply(executor)
    _join_rejects(config, folder, scratch)
    labels = tally.labels
    if distinct == 1 and not tally.splits["train"] and config.splits.rule != "files":
        place = next(split for split in SPLITS if tally.splits[split])
        _swap_train(folder / "text", place)
        for counts in (tally.splits, tally.characters):
            counts["train"], counts[place] = counts[place], counts["train"]
        labels["train"], labels[place] = labels[place], labels["train"]
        warning = "all records ask the same, so none can be held out: they are in the train split"
        emit(Event("warning", {"text": warning}))
    split_by: Literal["files", "input", "record"] = "files" if any(by_file) else config.splits.hash
    facts = facts_of(read, tally, repeated, labels["train"])
    text = _Text(read, tally.splits, tally.characters, labels["train"], split_by, facts, admission.near)
    _check_splits(config, text)
    return text


def _read_parts(
    config: PreprocessConfig,
    plan: PreprocessPlan,
    emit: EventSink,
    folder: Path,
    executor: Executor,
    by_file: Sequence[str | None],
) -> ReadResult:
    from llmctl.data.reading.parts import cut
    from llmctl.data.workers import Workers
    from llmctl.workflows.preprocess.outcome import ReadResult
    from llmctl.workflows.preprocess.reading import ReadJob, read_part

    parts = cut(plan.sources, by_file, document=config.document, encoding=config.encoding, executor=executor)
    jobs = (ReadJob(config, plan.task, part, plan.clean, folder / SCRATCH, plan.template) for part in parts)
    result, progress = ReadResult(), _Progress(emit, "read")
    # Standard input is that of this process.
    here = len(parts) == 1 or any(source.path is None for source in plan.sources)
    if here or (isinstance(executor, Workers) and executor.alone):
        for job in jobs:
            result.add(read_part(job, progress.add))
    else:
        for found in executor.map(read_part, jobs):
            result.add(found)
            progress.add(found.read)
    progress.end()
    if result.reused:
        text = f"{result.reused:,} of {len(parts):,} parts were read before this command was interrupted, and are used"
        emit(Event("note", {"text": text}))
    return result


def _join_rejects(config: PreprocessConfig, folder: Path, scratch: Path) -> None:
    if config.on_bad_record == "reject":
        with (folder / REJECTS).open("wb") as out:
            for path in sorted(scratch.glob("rejects-*")):
                with path.open("rb") as file:
                    shutil.copyfileobj(file, out)


def _swap_train(folder: Path, split: str) -> None:
    """Swap the text of the train split with that of another one."""
    from llmctl.data.storing.text import shard, shards

    moves = (("train", "swap"), (split, "train"), ("swap", split))
    for old, new in moves:
        for number, path in enumerate(shards(folder, old)):
            path.replace(shard(folder, new, number))


def _check_splits(config: PreprocessConfig, result: _Text) -> list[str]:
    """The splits with a fraction above 0 that got no records.

    Raises `DataError` where there is nothing to train on, or where whole files leave nothing held out.
    """
    kept = sum(result.splits.values())
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.read.dropped.items()))
        rejected = f", {result.read.rejected:,} rejected" if result.read.rejected else ""
        raise DataError(
            f"none of {result.read.read:,} records is left: {reasons or 'none dropped'}{rejected}",
            hint=next((f"the first bad one: {bad.origin}: {bad.why}" for bad in result.read.samples[BAD_RECORD]), None),
        )
    requested = {"validation": config.splits.validation, "test": config.splits.test}
    wanted = [split for split, fraction in requested.items() if fraction > 0]
    empty = [split for split in wanted if not result.splits[split]]
    whole = wanted and empty == wanted and result.read.whole_files == result.read.read
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


def _inputs(sources: Iterable[InputSource], read: ReadResult) -> list[InputFile]:
    """The input files with their sizes and hashes."""
    found = []
    for source in sources:
        if source.path is None:
            assert read.stdin is not None
            found.append(InputFile(path=STDIN, bytes=read.stdin[0], sha256=read.stdin[1]))
        for path in source.paths:
            name = source.name if source.task else shown(path)
            found.append(InputFile(path=name, bytes=path.stat().st_size, sha256=atomic.sha256(path)))
    return found


def _encode(
    config: PreprocessConfig, plan: PreprocessPlan, emit: EventSink, folder: Path, result: _Text, executor: Executor
) -> dict[str, LengthStats]:
    """Encode every split; records with a segment of more than `max_length` tokens are dropped from the text too."""
    from llmctl.data.storing.text import keep_in, shards
    from llmctl.data.tokenizing.codes import open_codes
    from llmctl.data.tokenizing.encode import TokenEncoder, encode_split

    encoder = TokenEncoder(open_codes(folder / "tokenizer"))
    progress = _Progress(emit, "encode", total=sum(result.splits.values()))
    lengths: dict[str, LengthStats] = {}
    for split in SPLITS:
        encoded = encode_split(
            plan.task,
            shards(folder / "text", split),
            encoder,
            folder / "tokens",
            split,
            labels=sorted(result.labels) if plan.task.labelled else (),
            max_length=config.max_length,
            executor=executor,
            tokenizer=folder / "tokenizer",
            done=progress.add,
        )
        lengths[split] = encoded.lengths
        if too_long := int((~encoded.kept).sum()):
            keep_in(folder / "text", split, encoded.kept)
            result.read.dropped["too_long"] += too_long
            result.splits[split] -= too_long
    progress.end()
    return lengths


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
