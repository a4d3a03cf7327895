"""Sound: decoding by libsndfile, mixing to one channel, resampling to 16 kHz, cutting at pauses; in bounded memory.

Letters: N samples, C channels.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmctl.data.spec import SAMPLE_RATE
from llmctl.errors import DataError, EnvironmentFault, MissingPackage
from llmctl.types import Audio

Samples = NDArray[np.float32]
"""(N,) between -1 and 1"""

BLOCK_SECONDS: Final = 10
"""Length of what is decoded at once."""
CROSSINGS: Final = 16
"""Zero crossings of the low-pass filter on each side, at the lower of the two rates."""
ROLLOFF: Final = 0.945
"""The filter passes frequencies up to this share of the lower Nyquist frequency."""
MOST_PHASES: Final = 4096
"""Most filters kept in a table; rates without a common divisor would need one for each output sample of a second."""
PAUSE_SECONDS: Final = 0.2
"""Length of the stretch whose energy is compared to find where to cut."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
HEAD_BYTES: Final = 4096
OGG_PAGE: Final = 65_536
"""More than the longest page of an OGG file."""
UNKNOWN_SIZE: Final = 0xFFFFFFFF
"""The size that programs write into a WAV header while they do not know it."""


def check_installed() -> None:
    """Raise `MissingPackage` without soundfile."""
    if find_spec("soundfile") is None:
        raise MissingPackage("soundfile", needed_for="audio", install="pip install 'llmctl[speech]'")


def read(audio: Audio) -> Samples:
    """All samples (N,) at 16 kHz, one channel. Raises what `stream` raises."""
    return np.concatenate(list(stream(audio)))


def stream(audio: Audio) -> Iterator[Samples]:
    """The samples in blocks, at 16 kHz, channels mixed by their mean.

    Raises `DataError` with the name of the file for one that is missing, empty, cut off, no audio, or without samples.
    """
    empty = True
    with _Opened(audio) as file:
        blocks = resampled(file.blocks(), file.rate, SAMPLE_RATE)
        for block in blocks:
            if len(block):
                empty = False
                yield block
    if empty:
        raise DataError("no sound: 0 seconds", where=audio.path)


def seconds_of(audio: Audio) -> float:
    """Length in seconds, from the header. Raises what `stream` raises, except for a file that is cut off."""
    with _Opened(audio) as file:
        return file.seconds


def flac(samples: Samples) -> bytes:
    """The samples as a FLAC file of 16 bits and 16 kHz."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1.0, 1.0 - 2.0**-15), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


class _Opened:
    """A sound file that is open for reading."""

    def __init__(self, audio: Audio) -> None:
        self._name = audio.path
        check_installed()
        import soundfile

        self._errors: Any = soundfile.LibsndfileError
        if audio.data is None:
            _check_file(Path(audio.path), audio.path)
        else:
            _check_whole(io.BytesIO(audio.data), len(audio.data), audio.path)
        try:
            self._file: Any = soundfile.SoundFile(io.BytesIO(audio.data) if audio.data is not None else audio.path)
        except soundfile.LibsndfileError as error:
            raise DataError(f"not audio that can be read: {_reason(error)}", where=audio.path, hint=FORMATS) from error
        except (OSError, RuntimeError, TypeError) as error:
            raise DataError(f"not audio that can be read: {error}", where=audio.path, hint=FORMATS) from error
        self.rate = int(self._file.samplerate)
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise DataError(f"a sample rate of {self.rate:,} Hz", where=audio.path, hint="between 1 and 768 kHz")

    @property
    def seconds(self) -> float:
        return float(self._file.frames) / self.rate

    def blocks(self) -> Iterator[Samples]:
        """(N,) each, at the rate of the file."""
        # An MP3 or OGG header may promise some frames more or less than there are.
        promised, read = (self._file.frames if self._file.format in ("FLAC", "WAV") else 0), 0
        while True:
            try:
                block = self._file.read(BLOCK_SECONDS * self.rate, dtype="float32", always_2d=True)  # (N, C)
            except self._errors as error:
                raise DataError(f"cut off or damaged: {_reason(error)}", where=self._name, hint=AGAIN) from error
            if not len(block):
                break
            read += len(block)
            mixed: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)
            if not np.isfinite(mixed).all():
                raise DataError("samples that are no finite numbers", where=self._name)
            yield mixed
        if read < promised:
            raise DataError(
                f"cut off: {read / self.rate:.1f} of {promised / self.rate:.1f} seconds", where=self._name, hint=AGAIN
            )

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


FORMATS: Final = "WAV, FLAC, OGG and MP3 are read; convert others, for example: ffmpeg -i FILE out.flac"
AGAIN: Final = "copy or download the file again"


def _reason(error: Any) -> str:
    text = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}"


def _check_file(path: Path, name: str) -> None:
    if not path.exists():
        raise DataError("no such audio file", where=name)
    if not path.is_file():
        raise DataError("not a file", where=name)
    if not os.access(path, os.R_OK):
        raise EnvironmentFault(f"cannot read {name}", hint="change its permissions")
    with path.open("rb") as file:
        _check_whole(file, path.stat().st_size, name)


def _check_whole(file: BinaryIO, size: int, name: str) -> None:
    if not size:
        raise DataError("the audio file is empty", where=name)
    if missing := _missing(file, size):
        raise DataError(f"cut off: {missing}", where=name, hint=AGAIN)


def _missing(file: BinaryIO, size: int) -> str | None:
    """What a file lacks of what it promises; libsndfile reads what is there and says nothing. FLAC: see `blocks`."""
    head = file.read(HEAD_BYTES)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        lacking = _missing_of_wav(head, size)
    elif head[:4] == b"OggS":
        file.seek(max(0, size - OGG_PAGE))
        return None if _ends_ogg(file.read()) else "its last page is missing"
    else:
        lacking = _missing_of_mp3(file, size)
    return f"{lacking:,} of its bytes are missing" if lacking else None


def _ends_ogg(tail: bytes) -> bool:
    """Whether the last page is whole and marked as the end of a stream (RFC 3533, section 6)."""
    place = tail.rfind(b"OggS")
    page = tail[place:] if place >= 0 else b""
    if len(page) < 27 or not page[5] & 4:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(lengths) == page[26] and len(page) >= 27 + len(lengths) + sum(lengths)


def _missing_of_mp3(file: BinaryIO, size: int) -> int:
    """By the byte count of a Xing header, as LAME, FFmpeg and libsndfile write it into the first frame; 0 without one, and
    for a file that does not begin with a frame, after its tag: FLAC may have one too."""
    file.seek(0)
    tag = file.read(10)  # ID3v2: the last four bytes are its length, seven bits in each
    start = 10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(tag[6:10])) if tag[:3] == b"ID3" else 0
    file.seek(start)
    frame = file.read(200)
    if frame[:1] != b"\xff" or frame[1:2] < b"\xe0":  # the eleven bits with which a frame begins
        return 0
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or not int.from_bytes(frame[place + 4 : place + 8], "big") & 2:
        return 0
    skipped = 12 if frame[place + 7] & 1 else 8  # the count of frames comes first, if it is there
    promised = int.from_bytes(frame[place + skipped : place + skipped + 4], "big")
    lacking = start + promised - size
    return lacking if lacking > promised // 50 else 0  # some programs count tags


def _missing_of_wav(head: bytes, size: int) -> int:
    place = 12
    while place + 8 <= len(head):
        kind, length = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        if kind == b"data":
            return 0 if length in (0, UNKNOWN_SIZE, UNKNOWN_SIZE - 1) else max(0, place + 8 + length - size)
        place += 8 + length + length % 2
    return 0


# ---------------------------------------------------------------------------------------------------------------
# Sample rate


def resampled(blocks: Iterable[Samples], rate: int, wanted: int) -> Iterator[Samples]:
    """The same sound at another sample rate, block by block.

        y[m] = Σ_n x[n] h(m · rate / wanted - n),   h a sinc times a Hann window, cut at the lower Nyquist frequency

    (Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample). For M output samples, of which each
    reads K input samples, the gathered input is (M, K).
    """
    if rate == wanted:
        yield from blocks
        return
    common = math.gcd(rate, wanted)
    step, phases = rate // common, wanted // common  # y[m] lies at input sample m · step / phases
    cutoff = ROLLOFF * min(1.0, wanted / rate)
    reach = math.ceil(CROSSINGS / cutoff)
    filters = _filters(np.arange(phases) / phases, cutoff, reach) if phases <= MOST_PHASES else None
    held, begin, done, total = np.zeros(reach, np.float32), -reach, 0, 0
    """`held`: input samples from number `begin` on, with silence before the first."""
    for block in _with_end(blocks):
        last = block is None
        held = np.concatenate([held, np.zeros(2 * reach, np.float32) if block is None else block])
        total += 0 if block is None else len(block)
        # The last output that needs no input beyond what is held; at the end, all within the length of the input.
        ready = -(-total * phases // step) if last else max(done, ((begin + len(held) - reach - 1) * phases) // step)
        for first in range(done, ready, wanted):
            number = np.arange(first, min(ready, first + wanted), dtype=np.int64)  # (M,)
            place, phase = np.divmod(number * step, phases)
            window = np.lib.stride_tricks.sliding_window_view(held, 2 * reach + 1)[place - reach - begin]  # (M, K)
            weights = _filters(phase / phases, cutoff, reach) if filters is None else filters[phase]
            yield np.einsum("mk,mk->m", window, weights)
        done = max(done, ready)
        kept = max(0, (done * step) // phases - reach - begin)
        held, begin = held[kept:], begin + kept


def _with_end(blocks: Iterable[Samples]) -> Iterator[Samples | None]:
    yield from blocks
    yield None


def _filters(fractions: NDArray[np.float64], cutoff: float, reach: int) -> Samples:
    """(P,) positions between two input samples -> (P, 2 · reach + 1) weights of the input samples around them."""
    distance = fractions[:, None] - np.arange(-reach, reach + 1)[None]  # (P, K)
    window = np.cos(np.pi * np.clip(distance * cutoff / CROSSINGS, -1, 1) / 2) ** 2
    weights: Samples = (cutoff * np.sinc(cutoff * distance) * window).astype(np.float32)
    return weights


# ---------------------------------------------------------------------------------------------------------------
# Windows


class Window(NamedTuple):
    """A stretch of a recording: where it begins, in seconds, and its samples (N,)."""

    start: float
    samples: Samples

    @property
    def end(self) -> float:
        return self.start + len(self.samples) / SAMPLE_RATE


def windows(audio: Audio, seconds: float) -> Iterator[Window]:
    """A recording in windows of at most `seconds`; a longer one is cut at the quietest place in the last third of each.

    Nothing is lost and nothing overlaps. Holds one window at a time. Raises what `stream` raises.
    """
    longest = round(seconds * SAMPLE_RATE)
    held, start = np.zeros(0, np.float32), 0
    for block in stream(audio):
        held = np.concatenate([held, block])
        while len(held) > longest:
            cut = _quietest(held[:longest], longest * 2 // 3)
            yield Window(start / SAMPLE_RATE, held[:cut])
            held, start = held[cut:], start + cut
    yield Window(start / SAMPLE_RATE, held)


def _quietest(samples: Samples, first: int) -> int:
    """The sample, from `first` on, around which `PAUSE_SECONDS` have the least energy."""
    width = round(PAUSE_SECONDS * SAMPLE_RATE)
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[first:], dtype=np.float64))])
    around = energy[width:] - energy[:-width]
    return first + int(around.argmin()) + width // 2
