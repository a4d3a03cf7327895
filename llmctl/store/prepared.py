"""A prepared folder: made by `preprocess`, read by every later verb. Handles paths and the manifest, not tensors."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, ValidationError

from llmctl import registry
from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.store import integrity, runs
from llmctl.store.safety import check_size

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
COUNTS_OF_CONTENT: Final = ("layouts", "changed", "turns", "unused", "found", "repeated_inputs", "label_counts")
"""Optional counts of the manifest: records by layout, by what was changed or left out (and turns by that), by unread field,
by what filters found in kept ones, by repeated input, and by label in the train split. `split_by` records what assigned them
to splits: `files`, a hash of the `input`, or a hash of the `record`, as always in version 0.1, which does not record it."""
READ: Final = ("text", "tokens", "tokenizer")
"""The folders that later verbs read."""


class Counts(Spec):
    """Record counts; `read` = `kept` + `dropped` + `rejected` always holds."""

    read: int
    kept: int
    dropped: dict[str, int] = {}
    rejected: int = 0


class InputFile(Spec):
    path: str
    bytes: int
    sha256: str


class TokenizerFacts(Spec):
    kind: str
    vocab_size: int
    sha256: str


class LengthStats(Spec):
    """Length statistics of the records in a split, in tokens.

    Marks are the control tokens around texts (`data/examples/layout.py`): one for each text, two for each turn of a
    conversation; the token that starts a sequence is not counted. A forecast needs only these sums and maxima, because
    it truncates the longest record to the context of the model; so no histogram of lengths is kept.
    """

    records: int
    tokens: int
    """Total tokens of text."""
    loss_tokens: int
    """Those of `tokens` that are in the loss."""
    marks: int
    """Total marks."""
    longest_prompt: int
    """Most tokens of one record that are not in the loss, with their marks."""
    longest_target: int
    """Most tokens of one record that are in the loss, with their marks."""
    longest: int
    """Most tokens of one record, with their marks."""
    seconds: float | None = None
    """Total length of the recordings; None for a task about texts."""
    longest_seconds: float | None = None


class Manifest(Spec):
    """`manifest.json`: accounts for every record read. A newer version may add keys; it then increments `version`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = VERSION
    llmctl: str
    task: str
    task_version: int
    records: Counts
    splits: dict[str, int]
    tokens: dict[str, int]
    lengths: dict[str, LengthStats] = {}
    """One entry for each split that has records; empty if version 0.1 wrote the folder."""
    tokenizer: TokenizerFacts
    inputs: tuple[InputFile, ...]
    labels: tuple[str, ...] = ()
    block_size: int | None = None
    text_sha256: dict[str, str]
    config: dict[str, Any]
    seconds: float
    clean: dict[str, Any] | None = None
    """The rules of cleaning with the content of their files (`data/spec.py:CleanRules`); None if version 0.1 wrote the
    folder: they are in `config`."""
    files: dict[str, integrity.FileHash] = {}
    """Every file but this one, for `Prepared.check_files`; empty if version 0.1 wrote the folder."""
    sha256: str | None = None
    """Hash of the other keys, see `hash_of`; None if an older version wrote the folder."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An opened prepared folder."""

    path: Path
    manifest: Manifest

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def clean(self) -> dict[str, Any] | None:
        """How the text was cleaned, for a model to do the same."""
        return self.manifest.clean or self.manifest.config.get("clean")

    @property
    def content(self) -> str:
        """One hash of the content. Leaves out `seconds` and who did the work, so that preparing the same data again
        gives the same hash, and `lengths`, `files`, `clean` and `sha256`, which older folders lack."""
        facts = self.manifest.model_dump(mode="json", exclude={"seconds", "lengths", "files", "clean", "sha256"})
        if "executor" in facts["config"]:  # version 0.1 had none; runs of it keep the hash with the workers
            facts["config"] |= {"executor": "local", "workers": 0}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def check_files(self, *, verify: bool = False, only: Collection[Path] = ()) -> None:
        """Raise `IntegrityError` where manifest, text, tokens or tokenizer are not those that `preprocess` wrote.

        `verify`: hash all of them, see `integrity.check`. `only`: just these files. Version 0.1 kept no hashes; nothing
        is checked then. README.md and rejects.jsonl are for readers and may change.
        """
        named = {path.relative_to(self.path).as_posix() for path in only}
        files = {
            name: each
            for name, each in self.manifest.files.items()
            if (name in named if only else name.partition("/")[0] in READ)
        }
        if not files:
            return
        added = [] if only else sorted({*_files_of(self.path)} - files.keys())
        hint = f"restore it from a copy, or prepare the data again: preprocess --force --out {self.path}"
        if self.manifest.sha256 not in (None, hash_of(self.manifest, was_read=True)):
            where = str(self.path / MANIFEST)
            raise IntegrityError("edited since preprocess wrote it (its hash differs)", where=where, hint=hint)
        if added:
            raise IntegrityError(f"{', '.join(added[:5])}: not written by preprocess", where=str(self.path), hint=hint)
        integrity.check(self.path, files, self.path / MANIFEST, verify=verify, hint=hint)

    def text(self, split: str) -> list[Path]:
        """The Parquet files of a split's records, in order."""
        names = [name for name in self.manifest.files if re.fullmatch(rf"text/{split}-\d{{5,}}\.parquet", name)]
        names = sorted(names, key=lambda name: (len(name), name)) or [f"text/{split}-00000.parquet"]
        return [self.path / name for name in names]


def hash_of(manifest: Manifest, *, was_read: bool = False) -> str:
    """The hash of what a manifest says about the data, wherever that lies. It is the same after it was written and read: of
    one that was read, keys that its file lacks are left out, which later versions may add."""
    left_out: Any = {"seconds": True, "lengths": True, "files": True, "sha256": True, "config": {"out"}}
    facts = manifest.model_dump(mode="json", exclude=left_out, exclude_unset=was_read)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _files_of(folder: Path) -> Iterator[str]:
    """Names of the files that training may read, hidden ones apart."""
    for name in READ:
        for path in (folder / name).rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(folder).as_posix()


def is_prepared(path: Path) -> bool:
    return (path / MANIFEST).is_file()


LARGEST: Final = 400_000_000
"""Largest manifest in bytes: it names the input files, of which there may be two millions."""
RECORDS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""File endings of record formats, which do not reveal the task."""


def _command(path: Path) -> str:
    """Suggest a command line that prepares `path`, which was named instead of a prepared folder."""
    bare = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    out = Path("data") / (bare.stem or "prepared")
    if not path.exists():
        known = str(path) in registry.table("datasets").lookup
        return f"llmctl preprocess {path} --out {out}" if known else f"llmctl preprocess INPUT --task TASK --out {path}"
    if path.is_dir() or bare.suffix in RECORDS:
        return shlex.join(["llmctl", "preprocess", str(path), "--task", "TASK", "--out", str(out)])
    if bare.suffix == ".txt":
        return shlex.join(["llmctl", "preprocess", str(path), "--task", "lm", "--out", str(out)])
    words = ["--source-file", str(path), "--target-file", "FILE", "--task", "translation", "--out", str(out)]
    return shlex.join(["llmctl", "preprocess", *words])


def open_prepared(path: Path) -> Prepared:
    """Open a prepared folder by its manifest.

    Raises `UsageError` if it is not a prepared folder, `IntegrityError` if the manifest was edited.
    """
    if not path.exists():
        raise UsageError(f"no such prepared folder: {path}", hint=f"make it: {_command(path)}")
    if not is_prepared(path):
        is_run = (path / runs.RUN).is_file()
        hint = f"it is a run: llmctl runs show {path} names its data" if is_run else f"make one: {_command(path)}"
        raise UsageError(f"{path} is not a prepared folder: it has no {MANIFEST}", hint=hint)
    where = str(path / MANIFEST)
    try:
        check_size(path / MANIFEST, LARGEST)
        value = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("version") != VERSION:
            raise IntegrityError(
                f"unknown version {value.get('version')!r}; this llmctl reads version {VERSION}",
                where=f"{where}:version",
                hint="pip install --upgrade llmctl, or preprocess again",
            )
        manifest = Manifest.model_validate(value)
    except (ValueError, RecursionError) as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
        raise IntegrityError(
            "the manifest was edited, or preprocess did not write it",
            where=f"{where}:{field}" if field else where,
            hint="preprocess again",
        ) from error
    counts = manifest.records
    if counts.read != counts.kept + sum(counts.dropped.values()) + counts.rejected:
        raise IntegrityError(
            "the counts do not add up: read must equal kept + dropped + rejected",
            where=f"{where}:records",
            hint="preprocess again",
        )
    return Prepared(path, manifest)


def data_card(manifest: Manifest) -> str:
    """The text of README.md: a header with which `datasets.load_dataset` finds the splits, then a summary for readers."""
    splits = [split for split, count in manifest.splits.items() if count]
    files = "".join(f"      - split: {split}\n        path: text/{split}-*.parquet\n" for split in splits)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.records.dropped.items())) or "none"
    heard = {split: each.seconds for split, each in manifest.lengths.items() if each.seconds is not None}
    rows = "".join(
        f"| {split} | {manifest.splits[split]:,} | {manifest.tokens[split]:,} |"
        + (f" {heard.get(split, 0.0):,.1f} |\n" if heard else "\n")
        for split in manifest.splits
    )
    # File names may contain any character; as JSON strings they stay on one line.
    sources = "".join(f"* {json.dumps(each.path)} ({each.bytes:,} bytes)\n" for each in manifest.inputs)
    labels = f"\nLabels: {', '.join(manifest.labels)}.\n" if manifest.labels else ""
    return f"""---
configs:
  - config_name: default
    data_files:
{files}---

# Prepared data for {manifest.task}

Made by llmctl {manifest.llmctl}. `manifest.json` holds counts, hashes and the whole configuration.

| split | records | tokens |{" seconds |" if heard else ""}
|---|---:|---:|{"---:|" if heard else ""}
{rows}
Read {manifest.records.read:,} records, kept {manifest.records.kept:,}, dropped: {dropped}, \
rejected {manifest.records.rejected:,}.
The tokenizer is `{manifest.tokenizer.kind}` with {manifest.tokenizer.vocab_size:,} entries.
{labels}
Inputs:

{sources}"""
