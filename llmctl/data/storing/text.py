"""The text of a prepared folder: Parquet files with the columns id, the task's fields, and origin.

    text/SPLIT-00000.parquet, text/SPLIT-00001.parquet, …

Every split has a first file; together they have the records of the split in order.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmctl.data.spec import SPLITS
from llmctl.errors import IntegrityError
from llmctl.types import Audio, Record

GROUP_CHARACTERS: Final = 1 << 20
"""Characters of a row group, which one process encodes at once."""
GROUP_RECORDS: Final = 20_000
AUDIO: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class TextWriter:
    """Writes the records of a part to `folder`/SPLIT-PART.parquet as they arrive, one row group at a time. A split
    without records gets no file."""

    def __init__(
        self, folder: Path, columns: Mapping[str, type], *, part: int = 0, group_characters: int = GROUP_CHARACTERS
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._part = folder, part
        self._schema: pa.Schema | None = None
        self._group_characters = group_characters
        self._columns = {"id": str, **columns, "origin": str}
        self._fields = list(columns)
        self._recordings = [name for name, kind in columns.items() if kind is Audio]
        self._files: dict[str, pq.ParquetWriter] = {}
        self._rows: dict[str, dict[str, list[Any]]] = {split: self._empty() for split in SPLITS}
        self._held = dict.fromkeys(SPLITS, 0)
        self.characters = dict.fromkeys(SPLITS, 0)
        self.records = dict.fromkeys(SPLITS, 0)

    def add(self, split: str, record: Record, characters: int, *, known_as: str | None = None) -> None:
        """Add a record with `characters` characters of text. `known_as`: its id, if it has none of its own."""
        rows, fields = self._rows[split], record.fields
        for name in self._fields:
            rows[name].append(fields.get(name))
        rows["id"].append(known_as or record.id)
        rows["origin"].append(record.origin)
        self.records[split] += 1
        self.characters[split] += characters
        self._held[split] += characters + sum([len(fields[name].data or b"") for name in self._recordings])
        if self._held[split] >= self._group_characters or len(rows["id"]) >= GROUP_RECORDS:
            self._flush(split)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:
            for split in SPLITS:
                if error is None and self._rows[split]["id"]:
                    self._flush(split)
                if split in self._files:
                    stack.callback(self._files[split].close)

    def _schema_of(self) -> pa.Schema:
        """The element types of list columns are known only from records."""
        return pa.schema(
            [
                (name, _type_of(name, kind, [value for rows in self._rows.values() for value in rows[name]]))
                for name, kind in self._columns.items()
            ]
        )

    def _empty(self) -> dict[str, list[Any]]:
        return {name: [] for name in self._columns}

    def _flush(self, split: str) -> None:
        rows = self._rows[split]
        if self._schema is None:
            self._schema = self._schema_of()
        if split not in self._files:
            self._files[split] = open_file(shard(self._folder, split, self._part), self._schema)
        arrays = [_array(values, self._schema.field(name).type) for name, values in rows.items()]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._files[split].write_table(table, row_group_size=len(table))
        self._rows[split], self._held[split] = self._empty(), 0


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The same as `pa.array`, which would import pandas (0.3 s)."""
    if pa.types.is_integer(kind):
        present = np.array([value is not None for value in values], bool)
        numbers = np.array([value or 0 for value in values], np.int8)
        bits = np.packbits(present, bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [pa.py_buffer(bits), pa.py_buffer(numbers)])
    if pa.types.is_struct(kind):
        parts = ([value.data or b"" for value in values], [value.path.encode() for value in values])
        fields = [
            pa.Array.from_buffers(
                each.type, len(values), [None, _offsets(part).buffers()[1], pa.py_buffer(b"".join(part))]
            )
            for each, part in zip(kind, parts, strict=True)
        ]
        return pa.StructArray.from_arrays(fields, fields=list(kind))
    if None in values:
        return pa.array(values, kind)
    if pa.types.is_string(kind):
        encoded = [value.encode() for value in values]
        data = pa.py_buffer(b"".join(encoded))
        return pa.Array.from_buffers(kind, len(values), [None, _offsets(encoded).buffers()[1], data])
    items = [item for value in values for item in value]
    if pa.types.is_struct(kind.value_type):
        fields = list(kind.value_type)
        columns = [_array([item.get(each.name) for item in items], each.type) for each in fields]
        inner = pa.StructArray.from_arrays(columns, fields=fields)
    else:
        inner = _array(items, kind.value_type)
    return pa.ListArray.from_arrays(_offsets(values), inner, type=kind)


def _offsets(values: Sequence[Any]) -> pa.Array:
    """(len + 1,) offset of each value in their concatenation, and the total length."""
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=ends[1:])
    return pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends)])


def _type_of(name: str, kind: type, values: Sequence[Any]) -> pa.DataType:
    """The Arrow type of a column: string, list of strings, list of messages, or a recording as `datasets` keeps it."""
    if kind is Audio:
        return AUDIO
    if kind is not list:
        return pa.string()
    first = next((value[0] for value in values if value), None)
    if isinstance(first, str) or (first is None and name != "messages"):
        return pa.list_(pa.string())
    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int8())]))


def shard(folder: Path, split: str, number: int) -> Path:
    """The path of a file of a split."""
    return folder / f"{split}-{number:05d}.parquet"


def shards(folder: Path, split: str) -> list[Path]:
    """The existing files of a split, in order."""
    return sorted(folder.glob(f"{split}-*.parquet"), key=lambda path: int(path.stem.rpartition("-")[2]))


def open_file(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_statistics=False)


def row_groups(path: Path) -> int:
    """Number of row groups of the file."""
    with _translated_errors(path):
        return int(pq.read_metadata(path).num_row_groups)


def read_group(path: Path, group: int) -> list[Record]:
    """The records of one row group."""
    with _translated_errors(path):
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, use_threads=False)
        return _records(table)


def read_rows(paths: Sequence[Path], wanted: Sequence[int]) -> Iterator[Record]:
    """The records in these rows, which ascend, of files one after another. Row groups without any are not read."""
    first = 0
    for path in paths if wanted else ():
        with _translated_errors(path), pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                inside = [row - first for row in wanted if first <= row < first + size]
                first += size
                if inside:
                    table = file.read_row_group(group, use_threads=False)
                    yield from (_records(table.slice(row, 1))[0] for row in inside)


def _records(table: pa.Table) -> list[Record]:
    values = {name: table.column(name).to_pylist() for name in table.column_names}
    ids, origins = values.pop("id"), values.pop("origin")
    for name, column in values.items():
        if pa.types.is_struct(table.schema.field(name).type):
            values[name] = [None if each is None else Audio(each["path"], each["bytes"]) for each in column]
    names = list(values)
    rows = zip(*values.values(), strict=True)
    return [
        Record(name, dict(zip(names, row, strict=True)), origin)
        for name, row, origin in zip(ids, rows, origins, strict=True)
    ]


@contextlib.contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Translate what pyarrow raises for a file that is missing, cut off or damaged; it gives its own errors no number."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        what = "is missing" if isinstance(error, FileNotFoundError) else "is cut off or damaged"
        raise IntegrityError(f"the text {what}", where=str(path), hint="preprocess again, with --force") from error


def read_text(paths: Path | Sequence[Path]) -> Iterator[Record]:
    """All records of some files, in order."""
    for path in [paths] if isinstance(paths, Path) else paths:
        for group in range(row_groups(path)):
            yield from read_group(path, group)


def keep_in(folder: Path, split: str, kept: NDArray[np.bool_]) -> None:
    """Rewrite the files of a split without the records where `kept` (R,) is False."""
    start = 0
    for path in shards(folder, split):
        rows = int(pq.read_metadata(path).num_rows)
        keep(path, kept[start : start + rows])
        start += rows


def keep(path: Path, kept: NDArray[np.bool_], out: Path | None = None) -> None:
    """Rewrite the file, as `out` or in its place, without the records where `kept` (R,) is False."""
    out = out or path
    temporary = out.with_suffix(".kept")
    start = 0
    with pq.ParquetFile(path) as file, open_file(temporary, file.schema_arrow) as written:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            own = kept[start : start + len(table)]
            start += len(table)
            # The same as `table.filter`, which would import pyarrow.compute (0.1 s).
            edges = np.flatnonzero(np.diff(own, prepend=False, append=False)).reshape(-1, 2).tolist()
            if edges:
                chosen = pa.concat_tables(table.slice(first, last - first) for first, last in edges).combine_chunks()
                written.write_table(chosen, row_group_size=len(chosen))
    temporary.replace(out)
