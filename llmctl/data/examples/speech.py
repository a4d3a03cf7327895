"""What a speech model reads: features of recordings, for training in batches and for transcription in windows.

Letters: B examples, M mel bands, T frames of 10 ms, N samples, U target tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.audio import sound
from llmctl.data.audio.mel import log_mel
from llmctl.data.examples.batches import Records, padded_rows
from llmctl.data.spec import FRAME_SAMPLES, SAMPLE_RATE
from llmctl.types import IGNORED, Audio, AudioWindow, Hearing

FRAMES_PER_SECOND: Final = SAMPLE_RATE // FRAME_SAMPLES
WINDOW_SECONDS: Final = 30.0
"""Windows into which a long recording is cut for a model that could read any length: memory stays bounded."""
SHORTEST: Final = 800
"""Samples that a model with convolutions over samples needs at least."""
PADDED_FRAMES: Final = 64
"""Batches are padded to a multiple of so many frames, because oneDNN compiles and keeps kernels for every width."""
CACHED_BYTES: Final = 512 << 20
"""Features of a training split that are kept instead of being computed in every epoch."""


def features_of(samples: sound.Samples, hearing: Hearing) -> NDArray[np.float32]:
    """(N,) -> (M, T), or for a model that reads samples (N,) with mean 0 and variance 1."""
    if hearing.bands:
        pad = round((hearing.max_seconds or 0) * SAMPLE_RATE) if hearing.padded else None
        return log_mel(samples, hearing.bands, pad_to=pad)
    if len(samples) < SHORTEST:
        samples = np.concatenate([samples, np.zeros(SHORTEST - len(samples), np.float32)])
    # As wav2vec 2.0 (Baevski et al. 2020): Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm in transformers.
    scaled: NDArray[np.float32] = ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
    return scaled


def windows(audio: Audio, hearing: Hearing) -> Callable[[], Iterator[AudioWindow]]:
    """Opens a recording and yields its features, window by window. Raises what `sound.stream` raises."""
    seconds = min(hearing.max_seconds or WINDOW_SECONDS, WINDOW_SECONDS)

    def opened() -> Iterator[AudioWindow]:
        for window in sound.windows(audio, seconds):
            yield AudioWindow(window.start, window.end, features_of(window.samples, hearing))

    return opened


@dataclass(frozen=True)
class SpeechRecords(Records):
    """Recordings with their transcripts, as examples."""

    hearing: Hearing

    @functools.cached_property
    def near_limit(self) -> NDArray[np.int64]:
        return np.zeros(0, np.int64)  # a recording is never cut

    @property
    def why_left_out(self) -> str:
        longest = self.hearing.max_seconds
        return (
            "their recordings are too short for their text"
            if longest is None
            else f"their recordings are longer than {longest:g} s, or their texts than {self.layout.context} tokens"
        )

    @functools.cached_property
    def left_out(self) -> frozenset[int]:
        """Indices in the store of the records that are longer than the model reads, or whose text does not fit: its
        context or, in a `ctc` model, the frames, of which there must be one for each token and one between equal ones.
        """
        assert self.store.frames is not None
        longest = (self.hearing.max_seconds or np.inf) * FRAMES_PER_SECOND
        found = set(np.flatnonzero(self.store.frames > longest).tolist())
        for index in range(len(self.store)):
            target = self.layout.target(self.store.record(index))
            if self.layout.context is not None and len(target) > self.layout.context:
                found.add(index)
            if self.layout.family == "ctc":
                needed = len(target) + int((target[1:] == target[:-1]).sum())
                if needed > self.store.frames[index] // self.hearing.stride:
                    found.add(index)
        return frozenset(found)

    def lengths(self) -> NDArray[np.int64]:
        """Frames of 10 ms of every example, shape (examples,)."""
        assert self.store.frames is not None
        frames = self.store.frames.astype(np.int64)
        return frames if self.kept is None else frames[self.kept]

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> dict[str, NDArray[Any]]:
        """`input_features` (B, M, T), or `input_values` (B, N); `attention_mask` (B, T) or (B, N) unless every
        recording is padded to the same length; `labels` (B, U)."""
        places = self.places(indices)
        heard = [self.features(index) for index in places]
        targets = [self.layout.target(self.store.record(index)) for index in places]
        return {**batched(heard, self.hearing), "labels": padded_rows(targets, IGNORED, max(map(len, targets)))}

    def features(self, index: int) -> NDArray[np.float32]:
        """What the model reads of a record, by its index in the store."""
        known = self._cache.get(index)
        if known is not None:
            return known
        found = features_of(sound.read(Audio(f"record {index}", self.store.recording(index))), self.hearing)
        if self._kept_bytes[0] + found.nbytes <= CACHED_BYTES:
            self._cache[index] = found
            self._kept_bytes[0] += found.nbytes
        return found

    @functools.cached_property
    def _cache(self) -> dict[int, NDArray[np.float32]]:
        return {}

    @functools.cached_property
    def _kept_bytes(self) -> list[int]:
        return [0]


def batched(heard: Sequence[NDArray[np.float32]], hearing: Hearing) -> dict[str, NDArray[Any]]:
    """Features of several recordings as the inputs of a model, padded at the end."""
    name = "input_features" if hearing.bands else "input_values"
    unit = PADDED_FRAMES if hearing.bands else 1  # wav2vec 2.0 normalises over time, padding included
    width = -(-max(each.shape[-1] for each in heard) // unit) * unit if not hearing.padded else heard[0].shape[-1]
    out = np.zeros((len(heard), *heard[0].shape[:-1], width), np.float32)
    mask = np.zeros((len(heard), width), np.int64)
    for number, each in enumerate(heard):
        out[number, ..., : each.shape[-1]] = each
        mask[number, : each.shape[-1]] = 1
    return {name: out} if hearing.padded else {name: out, "attention_mask": mask}
