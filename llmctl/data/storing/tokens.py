"""The token store: encoded records as memory-mapped arrays, the same for every model family.

    tokens/SPLIT.values.npy     uint16 or uint32 (V,)    token ids of all records, concatenated
    tokens/SPLIT.segments.npy   int64 (S + 1,)           start of each segment in `values`, and the end of the last
    tokens/SPLIT.records.npy    int64 (R + 1,)           first segment of each record, and the number of segments
    tokens/SPLIT.roles.npy      uint8 (S,)               index into `ROLES`; bit 7 is set if the segment is in the loss
    tokens/SPLIT.labels.npy     int32 (R,)               label ids, in labelled tasks only

The long arrays, `values` and the `audio` of recordings, are cut into files of `SHARD_BYTES`: SPLIT.values-00001.npy has what
follows SPLIT.values.npy, and so on.

In a packed task every document is one segment: <bos> text <eos>. If the tokenizer uses one token for both, or has no
<bos>, a single token separates documents: the stream starts with an <eos> that belongs to no document, and each document
ends with one. In both cases `values` is the stream that training cuts into blocks.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, get_args

import numpy as np
from numpy.typing import NDArray

from llmctl.data.spec import IN_LOSS
from llmctl.errors import IntegrityError
from llmctl.types import Modality, Role, Tokens

ROLES: Final[tuple[Role, ...]] = get_args(Role)
KINDS: Final = {
    "values": ("uint16", "uint32"),
    "segments": ("int64",),
    "records": ("int64",),
    "roles": ("uint8",),
    "labels": ("int32",),
    "audio": ("uint8",),
    "clips": ("int64",),
    "frames": ("int32",),
}
"""The arrays of a split and the dtypes allowed for each."""
OPTIONAL: Final = ("labels", "audio", "clips", "frames")
"""Arrays that only some tasks have: of labels, of recordings."""
LONG: Final = ("values", "audio")
"""Arrays that are cut into several files."""
SHARD_BYTES: Final = 1 << 30
"""Bytes of a file of a long array."""


class Shards:
    """A one-dimensional array in several memory-mapped files; slices are read across them."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))
        self.dtype, self.ndim = parts[0].dtype, 1

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, places: slice) -> NDArray[Any]:
        first, last, _ = places.indices(len(self))
        found = []
        number = bisect.bisect_right(self._ends, first)
        while first < last:
            begin = self._ends[number] - len(self._parts[number])
            found.append(self._parts[number][first - begin : last - begin])
            first = self._ends[number]
            number += 1
        return found[0] if len(found) == 1 else np.concatenate([*found, np.zeros(0, self.dtype)])


@dataclass(frozen=True)
class TokenStore:
    """One split of a prepared folder. The arrays are read-only memory maps."""

    values: NDArray[Any] | Shards
    segments: NDArray[np.int64]
    records: NDArray[np.int64]
    roles: NDArray[np.uint8]
    labels: NDArray[np.int32] | None
    audio: NDArray[np.uint8] | Shards | None = None
    """The FLAC files of all recordings, one after the other."""
    clips: NDArray[np.int64] | None = None
    """(records + 1,) where the recording of each record begins in `audio`."""
    frames: NDArray[np.int32] | None = None
    """(records,) length of each recording in frames of 10 ms."""

    @classmethod
    def open(cls, folder: Path, split: str) -> Self:
        """Open `folder`/`split`.*.npy. Raises `IntegrityError` if a file is missing, truncated or inconsistent."""
        arrays = {part: _array_of(folder, split, part) for part in KINDS}
        store = cls(**arrays)  # type: ignore[arg-type]
        sound = (
            all(
                array is None or (array.ndim == 1 and array.dtype.name in KINDS[part]) for part, array in arrays.items()
            )
            and len(store.segments) == len(store.roles) + 1
            and len(store.records) > 0
            and store.segments[-1] == len(store.values)
            and store.records[-1] == len(store.roles)
            and (store.labels is None or len(store.labels) == len(store))
            and (store.frames is None or len(store.frames) == len(store))
            and (store.clips is None) == (store.audio is None) == (store.frames is None)
            and (store.clips is None or len(store.clips) == len(store) + 1)
            and (store.clips is None or store.audio is None or store.clips[-1] == len(store.audio))
        )
        if not sound:
            raise IntegrityError(
                "the arrays are inconsistent", where=str(folder / split), hint="preprocess again, with --force"
            )
        return store

    def __len__(self) -> int:
        return len(self.records) - 1

    @property
    def total_tokens(self) -> int:
        return len(self.values)

    def record(self, index: int) -> list[Tokens]:
        """The segments of a record: role, token ids (n,), whether they are in the loss."""
        first, last = int(self.records[index]), int(self.records[index + 1])
        return [
            Tokens(
                ROLES[int(self.roles[each]) & ~IN_LOSS],
                self.values[self.segments[each] : self.segments[each + 1]],
                bool(int(self.roles[each]) & IN_LOSS),
            )
            for each in range(first, last)
        ]

    def recording(self, index: int) -> bytes:
        """The FLAC file of a record."""
        assert self.audio is not None
        assert self.clips is not None
        return self.audio[int(self.clips[index]) : int(self.clips[index + 1])].tobytes()

    def label(self, index: int) -> int:
        """The record's label id; -1 if the task has no labels."""
        return -1 if self.labels is None else int(self.labels[index])


def _array_of(folder: Path, split: str, part: str) -> NDArray[Any] | Shards | None:
    first = _open(folder / f"{split}.{part}.npy", optional=part in OPTIONAL)
    if first is None or part not in LONG:
        return first
    found = [first]
    while (path := folder / f"{split}.{part}-{len(found):05d}.npy").exists():
        more = _open(path, optional=False)
        if more is None or more.ndim != 1 or more.dtype != first.dtype:
            raise IntegrityError("the arrays are inconsistent", where=str(path), hint="preprocess again, with --force")
        found.append(more)
    return first if len(found) == 1 else Shards(found)


def _open(path: Path, *, optional: bool) -> NDArray[Any] | None:
    if optional and not path.exists():
        return None
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except FileNotFoundError as error:
        raise IntegrityError("the file is missing", where=str(path), hint="preprocess again, with --force") from error
    except Exception as error:  # a damaged header is parsed as Python literals, which raises many kinds
        raise IntegrityError(
            "not a readable .npy array: it is cut off or damaged",
            where=str(path),
            hint="preprocess again, with --force",
        ) from error
    return array


class ArrayFile:
    """A one-dimensional .npy file that can be appended to. Closing it updates the length in the header."""

    def __init__(self, path: Path, kind: Any) -> None:
        self._kind = np.dtype(kind)
        self._file: IO[bytes] = path.open("xb")
        self.length = 0
        self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, self._kind).data)
        self.length += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header so that the length can grow to 21 digits (numpy.lib.format, since 1.23).
        self._file.seek(0)
        header = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        if self.length == 0:
            self._begin = self._file.tell()
        elif self._file.tell() != self._begin:
            raise AssertionError("the header of an array file grew")


class ShardedFile:
    """A long array that can be appended to, in files of `SHARD_BYTES`."""

    def __init__(self, folder: Path, split: str, part: str, kind: Any) -> None:
        self._folder, self._name, self._kind = folder, f"{split}.{part}", np.dtype(kind)
        self._most = SHARD_BYTES // self._kind.itemsize
        self._file = ArrayFile(folder / f"{self._name}.npy", kind)
        self._shards, self.length = 1, 0

    def append(self, values: NDArray[Any]) -> None:
        while self._file.length + len(values) > self._most:
            fitting = self._most - self._file.length
            self._write(values[:fitting])
            values = values[fitting:]
            self._file.__exit__(None, None, None)
            self._file = ArrayFile(self._folder / f"{self._name}-{self._shards:05d}.npy", self._kind)
            self._shards += 1
        self._write(values)

    def _write(self, values: NDArray[Any]) -> None:
        self._file.append(values)
        self.length += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


@dataclass(frozen=True, slots=True)
class Recordings:
    """The recordings of a batch of records."""

    audio: NDArray[np.uint8]
    """(B,) bytes"""
    lengths: NDArray[np.int64]
    """(R,) in bytes"""
    frames: NDArray[np.int32]
    """(R,) in frames of 10 ms"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A batch of encoded records, in order: L token ids, S segments, R records."""

    values: NDArray[Any]
    """(L,)"""
    segment_lengths: NDArray[np.int64]
    """(S,) in tokens"""
    roles: NDArray[np.uint8]
    """(S,)"""
    record_lengths: NDArray[np.int64]
    """(R,) in segments"""
    labels: NDArray[np.int32] | None
    """(R,)"""
    kept: NDArray[np.bool_]
    """(number of input records,) False for a record that was dropped because of its length"""
    recordings: Recordings | None = None


def _new(folder: Path, split: str, part: str, kind: Any) -> ArrayFile | ShardedFile:
    if part in LONG:
        return ShardedFile(folder, split, part, kind if part == "values" else KINDS[part][0])
    return ArrayFile(folder / f"{split}.{part}.npy", KINDS[part][0])


def write_store(
    folder: Path,
    split: str,
    pieces: Iterable[Piece],
    *,
    kind: Any,
    lead: int | None,
    labelled: bool,
    modality: Modality = "text",
) -> int:
    """Write the arrays of a split from its pieces; returns the number of tokens. `lead`: token before the first record."""
    folder.mkdir(exist_ok=True)
    parts = ["values", "segments", "records", "roles"]
    parts += ["labels"] if labelled else []
    parts += ["audio", "clips", "frames"] if modality == "audio" else []
    with contextlib.ExitStack() as stack:
        files = {part: _new(folder, split, part, kind) for part in parts}
        for each in files.values():
            stack.enter_context(each)
        values, roles = files["values"], files["roles"]
        if lead is not None:
            values.append(np.array([lead]))
        files["segments"].append(np.array([values.length]))
        files["records"].append(np.array([0]))
        if modality == "audio":
            files["clips"].append(np.array([0]))
        for piece in pieces:
            files["segments"].append(values.length + np.cumsum(piece.segment_lengths))
            files["records"].append(roles.length + np.cumsum(piece.record_lengths))
            values.append(piece.values)
            roles.append(piece.roles)
            if piece.labels is not None:
                files["labels"].append(piece.labels)
            if piece.recordings is not None:
                files["clips"].append(files["audio"].length + np.cumsum(piece.recordings.lengths))
                files["audio"].append(piece.recordings.audio)
                files["frames"].append(piece.recordings.frames)
        return values.length
