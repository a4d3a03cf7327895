"""A prepared folder: what `preprocess` makes and every later verb reads. Names and manifest only, no tensors."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, ValidationError

from llmctl import registry
from llmctl.config import Spec
from llmctl.errors import IntegrityError, UsageError
from llmctl.store import runs

VERSION: Final = 1
MANIFEST: Final = "manifest.json"


class Counts(Spec):
    """read = kept + dropped + rejected, always."""

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
    """How long the records of a split are.

    Marks are the control tokens that are put around texts (`data/layout.py`): one for each text, two for each turn of a
    conversation. What begins a sequence is not among them. These sums and maxima are all that a forecast needs: it cuts
    the longest record to the context of the model at hand, so no list or histogram of lengths is kept.
    """

    records: int
    tokens: int
    """Tokens of text, in all."""
    loss_tokens: int
    """Those of them that are learned."""
    marks: int
    """Marks, in all."""
    longest_prompt: int
    """The most tokens that a record gives (everything that is not learned), with their marks."""
    longest_target: int
    """The most that are learned of a record, with their marks."""
    longest: int
    """The most tokens that a record has, with their marks."""


class Manifest(Spec):
    """Accounts for every record read. Keys may be added by a newer version, which then raises `version`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = VERSION
    llmctl: str
    task: str
    task_version: int
    records: Counts
    splits: dict[str, int]
    tokens: dict[str, int]
    lengths: dict[str, LengthStats] = {}
    """Of each split that has records; empty where a version 0.1 wrote it."""
    tokenizer: TokenizerFacts
    inputs: tuple[InputFile, ...]
    labels: tuple[str, ...] = ()
    block_size: int | None = None
    text_sha256: dict[str, str]
    config: dict[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared folder that was opened."""

    path: Path
    manifest: Manifest

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def content(self) -> str:
        """The content as one hash: the manifest without the time it took, so that the same data made again is the same, and
        without lengths, which older folders do not tell."""
        facts = self.manifest.model_dump(mode="json", exclude={"seconds", "lengths"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def text(self, split: str) -> Path:
        """The Parquet file of a split's records."""
        return self.path / "text" / f"{split}-00000.parquet"


def is_prepared(path: Path) -> bool:
    return (path / MANIFEST).is_file()


RECORDS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files of records: what task they are for only their owner knows."""


def _command(path: Path) -> str:
    """The command line that prepares what was named in the place of a prepared folder."""
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
    """Open by the manifest. Raises `UsageError` if it is no prepared folder, `IntegrityError` if it was edited."""
    if not path.exists():
        raise UsageError(f"no such prepared folder: {path}", hint=f"make it: {_command(path)}")
    if not is_prepared(path):
        is_run = (path / runs.RUN).is_file()
        hint = f"it is a run: llmctl runs show {path} says of what data" if is_run else f"make one: {_command(path)}"
        raise UsageError(f"{path} is no prepared folder: it has no {MANIFEST}", hint=hint)
    where = str(path / MANIFEST)
    try:
        value = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("version") != VERSION:
            raise IntegrityError(
                f"version {value.get('version')!r} is not known, this llmctl reads {VERSION}",
                where=f"{where}:version",
                hint="pip install --upgrade llmctl, or preprocess again",
            )
        manifest = Manifest.model_validate(value)
    except (ValueError, ValidationError) as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
        raise IntegrityError(
            "the manifest is not what preprocess wrote", where=f"{where}:{field}", hint="preprocess again"
        ) from error
    counts = manifest.records
    if counts.read != counts.kept + sum(counts.dropped.values()) + counts.rejected:
        raise IntegrityError("read is not kept + dropped + rejected", where=f"{where}:records", hint="preprocess again")
    return Prepared(path, manifest)


def data_card(manifest: Manifest) -> str:
    """README.md: a header by which `datasets.load_dataset` opens the splits, and what a person wants to know."""
    splits = [split for split, count in manifest.splits.items() if count]
    files = "".join(f"      - split: {split}\n        path: text/{split}-*.parquet\n" for split in splits)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.records.dropped.items())) or "none"
    rows = "".join(
        f"| {split} | {manifest.splits[split]:,} | {manifest.tokens[split]:,} |\n" for split in manifest.splits
    )
    # A file's name may hold anything; spelt as JSON it stays one line.
    sources = "".join(f"* {json.dumps(each.path)} ({each.bytes:,} bytes)\n" for each in manifest.inputs)
    labels = f"\nLabels: {', '.join(manifest.labels)}.\n" if manifest.labels else ""
    return f"""---
configs:
  - config_name: default
    data_files:
{files}---

# Prepared data for {manifest.task}

Made by llmctl {manifest.llmctl}. `manifest.json` holds counts, hashes and the whole configuration.

| split | records | tokens |
|---|---:|---:|
{rows}
Read {manifest.records.read:,} records, kept {manifest.records.kept:,}, dropped: {dropped}, \
rejected {manifest.records.rejected:,}.
The tokenizer is `{manifest.tokenizer.kind}` with {manifest.tokenizer.vocab_size:,} entries.
{labels}
Inputs:

{sources}"""
