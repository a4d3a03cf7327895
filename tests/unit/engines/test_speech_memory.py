"""Transcription holds the windows of one batch, however long the recording is."""

from __future__ import annotations

import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest

from llmctl.engines.spec import Sampling
from llmctl.types import Audio, Record
from llmctl.workflows.inference.session import open_predictor
from tests import speech_models

WINDOW = 80 * 3000 * 4
"""Bytes of the features of 30 seconds."""


@pytest.mark.parametrize("name", ["ctc", "whisper"])
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path, name: str) -> None:
    """numpy reports its arrays to tracemalloc, so the features of every window are counted."""
    (tmp_path / name).mkdir()
    make = {"ctc": speech_models.ctc, "whisper": lambda folder: speech_models.whisper(folder, multilingual=False)}
    predictor = open_predictor(str(make[name](tmp_path / name)))
    peaks = []
    for minutes in (2, 10):
        path = tmp_path / f"{minutes}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(16_000)
            second = np.random.default_rng(0).integers(100, 156, 16_000, np.uint8).tobytes()
            file.writeframes(second * 60 * minutes)
        tracemalloc.start()
        try:
            record = Record("", {"audio": Audio(str(path))})
            [found] = predictor.answers([record], Sampling(max_new_tokens=2, batch_size=2))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert found.tokens
    assert peaks[1] - peaks[0] < 3 * WINDOW, "8 minutes more are at least 16 windows more"
