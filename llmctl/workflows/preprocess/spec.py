"""Settings of `preprocess`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import StrictInt

from llmctl.config import DocumentUnit, Size, Spec, flag, key
from llmctl.data.spec import TOKENIZERS, Clean, Dedup, Splits
from llmctl.workflows.settings import ColumnMap, TaskName, TokenizerReference


class PreprocessConfig(Spec):
    """Read, clean, split, train or load a tokenizer, encode."""

    inputs: tuple[str, ...] = key((), "files, folders, globs, built-in data sets, or - for standard input")
    task: TaskName | None = flag(None, "what the records are for; a built-in data set knows its own", panel="Main")
    out: Path = flag(..., "the folder to make", panel="Main")
    columns: ColumnMap | None = flag(None, "your names of the fields: text=body,label=stars", panel="Input")
    document: DocumentUnit = flag("file", "what one document of a plain text file is", panel="Input")
    source_file: Path | None = flag(None, "source lines, aligned with --target-file", panel="Input")
    target_file: Path | None = flag(None, "target lines, aligned with --source-file", panel="Input")
    encoding: str = flag("utf-8", "encoding of the input files", panel="Input")
    on_bad_record: Literal["fail", "skip", "reject"] = flag(
        "fail", "a bad record: stop; drop it; or keep it in rejects.jsonl and exit 10", panel="Input"
    )
    tokenizer: TokenizerReference = flag(
        "bpe", f"trained here: {', '.join(TOKENIZERS)}; or the folder of a tokenizer or model", panel="Tokens"
    )
    vocab_size: Size = flag(4096, "entries of a tokenizer trained here", panel="Tokens", ge=8)
    max_length: Size | None = flag(None, "drop records with a longer segment, in tokens", panel="Tokens", ge=1)
    block_size: Size = key(256, "tokens of a block in language modelling", ge=2)
    splits: Splits = key(Splits(), "fractions held out")
    clean: Clean = key(Clean(), "how text is cleaned")
    dedup: Dedup = key(Dedup(), "which duplicates are dropped")
    workers: StrictInt = flag(0, "processes that read and encode; 0 for one a core", panel="Run", ge=0)
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
