"""Rows of Parquet files and of data sets saved by `datasets`, with the names of Hugging Face's class labels."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from llmctl.data.reading.decode import LFS, blocks, compression_of, refuse_foreign
from llmctl.data.reading.formats import Bad, RawRecord
from llmctl.errors import DataError

AGAIN = "copy or download the file again; it may be truncated"


def parquet(
    path: Path,
    name: str,
    wanted: frozenset[str],
    also: frozenset[str] = frozenset(),
    unread: Counter[str] | None = None,
) -> Iterator[RawRecord | Bad]:
    """Rows of a Parquet file; if it has all `wanted` columns, only those and the columns in `also`.

    `unread` counts the rows of the columns left out. Raises `DataError` for a damaged file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _placed(path, name) as place, pq.ParquetFile(place) as file:
            names = file.schema_arrow.names
            labels = class_names(_huggingface(file.schema_arrow.metadata or {}))
            columns = [each for each in names if each in wanted or each in also] if wanted <= set(names) else None
            if wanted and columns is not None and unread is not None:
                unread.update({each: file.metadata.num_rows for each in names if each not in columns})
            batches = file.iter_batches(batch_size=1024, columns=columns if wanted else None)
            yield from _rows(batches, name, labels)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"not a valid Parquet file: {problem}", where=name, hint=AGAIN) from error


def arrow(path: Path, name: str) -> Iterator[RawRecord | Bad]:
    """Rows of an Arrow stream, as `datasets` writes it, or of an Arrow file (Feather). Raises `DataError` for a damaged one."""
    import pyarrow as pa

    try:
        facts = json.loads((path.parent / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    try:
        with _placed(path, name) as place, pa.OSFile(str(place)) if isinstance(place, Path) else place as file:
            indexed = file.read(6) == b"ARROW1"
            file.seek(0)
            with pa.ipc.open_file(file) if indexed else pa.ipc.open_stream(file) as reader:
                labels = class_names(_huggingface(reader.schema.metadata or {}))
                labels |= class_names(facts if isinstance(facts, dict) else {})
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if indexed else reader
                yield from _rows(batches, name, labels)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        kind = "Arrow" if path.suffix == ".arrow" else "Feather"
        raise DataError(f"not a valid {kind} file: {problem}", where=name, hint=AGAIN) from error


def _rows(batches: Any, name: str, labels: Mapping[str, list[str]]) -> Iterator[RawRecord]:
    number = 0
    for batch in batches:
        for fields in batch.to_pylist():
            number += 1
            for column, names in labels.items():
                value = fields.get(column)
                if isinstance(value, int):
                    # -1 is Hugging Face's value for a row without a label.
                    fields[column] = names[value] if 0 <= value < len(names) else None
            yield RawRecord(f"{name}:{number}", fields)


def class_names(info: Mapping[str, Any]) -> dict[str, list[str]]:
    """Column -> names, for the columns that a description of a data set declares as `ClassLabel`."""
    features = info.get("features")
    if not isinstance(features, Mapping):
        return {}
    found = {
        column: each["names"]
        for column, each in features.items()
        if isinstance(each, Mapping) and each.get("_type") == "ClassLabel" and isinstance(each.get("names"), list)
    }
    return {column: names for column, names in found.items() if all(isinstance(name, str) for name in names)}


def _huggingface(metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """What `datasets` writes into the schema of a Parquet file."""
    try:
        info = json.loads(metadata[b"huggingface"])["info"]
    except (KeyError, ValueError, TypeError):
        return {}
    return info if isinstance(info, Mapping) else {}


@contextlib.contextmanager
def _placed(path: Path, name: str) -> Iterator[Path | IO[bytes]]:
    """The file, or a decompressed temporary copy, because Parquet is read from its end. Raises `DataError` for a pointer."""
    if not compression_of(path.name):
        with path.open("rb") as file:
            if (head := file.read(len(LFS))) == LFS:
                refuse_foreign(head, name)
        yield path
        return
    with tempfile.TemporaryFile() as unpacked:
        for block in blocks(path, name):
            unpacked.write(block)
        unpacked.seek(0)
        yield unpacked
