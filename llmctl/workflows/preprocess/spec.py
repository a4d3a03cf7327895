"""Settings of `preprocess`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, StrictInt

from llmctl.config import DocumentUnit, Spec, UsageValueError, flag, key
from llmctl.data.cleaning.filters.spec import Languages, Pii, Quality, known_languages
from llmctl.data.spec import STOPWORDS, TOKENIZERS, Clean, Dedup, Splits
from llmctl.registry import looks_like_path, near
from llmctl.settings import ColumnMap, RequestedCountGate, TaskName, TokenizerReference
from llmctl.values import LARGEST_SEED, Folder, Shown, Size

AllowedLanguages = Annotated[Languages, BeforeValidator(known_languages)]


def _known_lists(clean: Clean) -> Clean:
    for name in clean.stopwords:
        if name not in STOPWORDS and "." not in name and not looks_like_path(name):
            hint = near(name, STOPWORDS) or f"lists: {', '.join(STOPWORDS)}; or a file with a word on each line"
            raise UsageValueError(f"no list of stop words is named {name!r}", hint)
    return clean


class PreprocessConfig(Spec):
    """Read, clean, split, train or load a tokenizer, encode."""

    moved: ClassVar[Mapping[str, str]] = {"segment": "clean.segment", "stopwords": "clean.stopwords"}

    inputs: tuple[Annotated[str, Shown(names="datasets", path=True)], ...] = key(
        (), "files, folders, globs, built-in data sets; - for standard input"
    )
    task: TaskName | None = flag(None, "task of the records; default: that of a built-in data set", panel="Main")
    out: Folder = flag(..., "folder to create", panel="Main")
    columns: ColumnMap | None = flag(
        None, "your column for each field: text=body,label=stars; with dots for nested ones", panel="Input"
    )
    document: DocumentUnit = flag("file", "what counts as one document of a plain text file", panel="Input")
    source_file: Path | None = flag(None, "source text, one per line, aligned with --target-file", panel="Input")
    target_file: Path | None = flag(None, "target text, one per line, aligned with --source-file", panel="Input")
    encoding: str = flag("utf-8", "encoding of the input files", panel="Input")
    delimiter: Literal["auto", "comma", "semicolon", "tab", "pipe"] = key(
        "auto", "delimiter of CSV and TSV files; auto: found from the header"
    )
    quoting: Literal["auto", "quoted", "none"] = key(
        "auto", "whether double quotes enclose cells; auto: in CSV yes, in TSV if they do so consistently"
    )
    records: str | None = key(None, "key of the list of records in a JSON object; default: found")
    tool_calls: Literal["template", "fail", "drop"] = key(
        "template",
        "turns and calls of tools in conversations: through the tokenizer's chat template, a bad record where it knows none;"
        " always a bad record; or left out and counted",
    )
    on_bad_record: Literal["fail", "skip", "reject"] = flag(
        "fail", "at a bad record: stop; drop it; or write it to rejects.jsonl and exit with code 10", panel="Input"
    )
    tokenizer: TokenizerReference = flag(
        "bpe", f"train one: {', '.join(TOKENIZERS)}; or the folder or hf:ID of a tokenizer or model", panel="Tokens"
    )
    vocab_size: Size = flag(4096, "vocabulary size of a trained tokenizer", panel="Tokens", ge=8)
    max_length: Size | None = flag(
        None, "drop records with a segment of more than this many tokens", panel="Tokens", ge=1
    )
    block_size: Size = key(256, "tokens per block in language modelling", ge=2)
    splits: Splits = key(Splits.defaults(), "what assigns records to splits, and fractions held out")
    clean: Annotated[Clean, AfterValidator(_known_lists)] = key(Clean.defaults(), "how to clean text")
    quality: Quality = key(
        Quality.defaults(), "bounds on the form of a text; web: the published ones for pages of the web"
    )
    languages: AllowedLanguages = key(
        (), "drop records in other languages than these, [zh, en], or by side of a pair, {source: en, target: zh}"
    )
    decontaminate: tuple[str, ...] = key(
        (), "drop records that share 13 words (characters of Chinese) with these files, prepared folders or data sets"
    )
    pii: Pii = key(
        "off", "e-mail addresses, phone numbers, IDs, cards, keys …: count them, mask them, or drop the record"
    )
    dedup: Dedup = key(Dedup.defaults(), "which duplicates to drop")
    workers: StrictInt = flag(0, "worker processes; 0: one per core", panel="Run", ge=0)
    executor: Literal["local", "ray"] = flag(
        "local", "where records are read and encoded: processes of this machine, or a Ray cluster", panel="Run"
    )
    sample: StrictInt | None = flag(
        None, "with --dry-run: read only this many records and show what would be dropped", panel="Run", ge=1
    )
    require: tuple[RequestedCountGate, ...] = flag(
        (),
        "gate: share of the records read, 'kept>=0.9', or a count, 'pii==0'; exit code 10 if not met; repeatable",
        panel="Report",
    )
    junit: Path | None = flag(None, "write counts and gates as JUnit XML", panel="Report")
    markdown: Path | None = flag(
        None, "write counts and gates as a Markdown table; $GITHUB_STEP_SUMMARY is appended to", panel="Report"
    )
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
