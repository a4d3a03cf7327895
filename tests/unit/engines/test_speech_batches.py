"""Transcripts do not depend on what else is in the batch, and a step takes no more windows than were asked for."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from llmctl.engines.spec import Sampling
from llmctl.engines.speech import SpeechEngine
from llmctl.types import Audio, Completion, Record, Spoken
from llmctl.workflows.inference.session import open_predictor
from tests import speech_models


@pytest.mark.parametrize("name", ["ctc", "wav2vec2"])
def test_a_transcript_is_the_same_alone_and_beside_longer_recordings(tmp_path: Path, name: str) -> None:
    """wav2vec 2.0 normalises over time: padding would change what it hears."""
    (tmp_path / name).mkdir()
    predictor = open_predictor(str(getattr(speech_models, name)(tmp_path / name)))
    records = [Record("", {"audio": Audio(str(clip))}) for clip in speech_models.clips(tmp_path)]
    alone = [found for record in records for found in predictor.answers([record], Sampling())]
    together = list(predictor.answers(records, Sampling(batch_size=16)))
    assert [_heard(each) for each in together] == [_heard(each) for each in alone]
    assert any(each.text for each in alone)


def _heard(found: Completion) -> tuple[str, int, str, tuple[Spoken, ...]]:
    return found.text, found.tokens, found.finish_reason, found.spoken


@pytest.mark.parametrize("most", [1, 16])
def test_a_step_transcribes_no_more_windows_of_a_recording_than_were_asked_for(tmp_path: Path, most: int) -> None:
    """Of one: a client of a server that goes away frees its place after a window."""
    (tmp_path / "ctc").mkdir()
    predictor = open_predictor(str(speech_models.ctc(tmp_path / "ctc")))
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(16_000)
        file.writeframes(np.random.default_rng(0).integers(100, 156, 16_000 * 90, np.uint8).tobytes())
    record = Record("", {"audio": Audio(str(tmp_path / "long.wav"))})
    request = predictor.request_builder.generation_request(record)
    assert request.windows is not None
    windows = len(list(request.windows()))
    assert windows > 2
    session = predictor.engine.session(rows=16)
    session.submit(request, Sampling(batch_size=most))
    taken = 0
    while session.pending:
        session.step()
        taken += 1
    assert taken == (windows if most == 1 else 1)
    session.close()


def test_a_cancelled_window_ends_after_the_next_token(tmp_path: Path) -> None:
    predictor = open_predictor(str(speech_models.whisper(tmp_path, multilingual=False)))
    assert isinstance(predictor.engine, SpeechEngine)
    record = Record("", {"audio": Audio(str(speech_models.clips(tmp_path, 1)[0]))})
    request = predictor.request_builder.generation_request(record)
    session = predictor.engine.session()
    tickets = [session.submit(request, Sampling(max_new_tokens=40)) for _ in range(2)]
    passes = 0

    def counted(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes >= 3:  # the second client stays until the fifth token
            for ticket in tickets[: 1 if passes < 5 else 2]:
                session.cancel(ticket)

    predictor.engine.model.get_decoder().register_forward_hook(counted)
    assert session.step() == []
    assert passes == 5
    assert session.pending == 0
