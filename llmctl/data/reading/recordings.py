"""The audio column of a record: from a path, or the content that Parquet holds, to an `Audio`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.data.audio import sound
from llmctl.data.reading.read import OpenAudio
from llmctl.errors import DataError
from llmctl.store import integrity
from llmctl.types import Audio, Record

LONGEST_SECONDS: Final = 600.0
"""Longest recording of prepared data: a training example is a few sentences."""
Seen = dict[str, list[int] | None]
"""Path -> `integrity.state` of it."""
CLIPS: Final = "clips"
"""Where Common Voice keeps the files that its tables name."""


def referenced(columns: Sequence[str]) -> OpenAudio:
    """Recordings stay where they are; only their paths are resolved and checked."""
    return lambda record, folder: _opened(record, columns, folder, load=False)


def loaded(columns: Sequence[str], seen: Seen | None = None) -> OpenAudio:
    """Recordings become part of the record: FLAC of 16 bits, 16 kHz and one channel. Raises what `sound.stream` does.

    `seen`: gets the state of each file that a record names, before it is read.
    """
    return lambda record, folder: _opened(record, columns, folder, load=True, seen=seen)


def _opened(
    record: Record, columns: Sequence[str], folder: Path | None, *, load: bool, seen: Seen | None = None
) -> Record:
    fields = dict(record.fields)
    for name in columns:
        if fields.get(name) is not None:
            audio = _audio(fields[name], folder, f"{record.origin}:{name}", seen)
            fields[name] = Audio(_own_name(fields[name], audio), _flac(audio)) if load else audio
    return Record(record.id, fields, record.origin)


def _audio(value: Any, folder: Path | None, where: str, seen: Seen | None) -> Audio:
    if isinstance(value, Audio):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return Audio(str(value.get("path") or where), value["bytes"])
    if isinstance(value, Mapping):
        value = value.get("path")
    if not isinstance(value, str):
        raise DataError(f"the recording is {type(value).__name__}, expected the path of a file", where=where)
    if folder is None:
        folder = Path()
    place = Path(os.path.normpath(folder / value))
    if not value.strip() or "\0" in value:
        raise DataError("the path of the recording is empty or has a NUL character", where=where)
    if not place.absolute().is_relative_to(Path(os.path.normpath(folder.absolute()))):
        raise DataError(
            f"{value} lies outside the folder {folder}",
            where=where,
            hint="move the recordings beside the file that names them, and write their paths relative to it",
        )
    clip = folder / CLIPS / value
    if seen is not None:
        seen |= {str(each): integrity.state(each) for each in (place, clip)}
    if not place.exists() and clip.is_file():
        place = clip
    if not place.is_file():
        hint = (
            f"put the recordings into {folder}, or write their paths relative to it, as the file that names them does"
        )
        raise DataError(f"no such audio file: {place}", where=where, hint=hint)
    return Audio(str(place))


def _own_name(value: Any, audio: Audio) -> str:
    """The path as the data writes it, so that the same data anywhere gives the same bytes."""
    return value if isinstance(value, str) else audio.path


def _flac(audio: Audio) -> bytes:
    seconds = sound.seconds_of(audio)
    if seconds > LONGEST_SECONDS:
        raise DataError(
            f"{seconds:,.0f} seconds long; a recording to train on has at most {LONGEST_SECONDS:,.0f}",
            where=audio.path,
            hint="cut it at pauses, with the text of each part",
        )
    return sound.flac(sound.read(audio))
