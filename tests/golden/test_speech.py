"""Features and CTC against transformers 5.23's Whisper feature extractor, and against every path counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from llmctl.data.audio.mel import log_mel
from llmctl.data.examples.speech import features_of
from llmctl.engines import ctc_search
from llmctl.models.ctc import CTCConfig, SpeechForCTC, ctc_losses
from llmctl.types import Hearing

RNG = np.random.default_rng(0)
SOUND = (0.1 * RNG.standard_normal(16_000 * 3)).astype(np.float32) * np.hanning(48_000).astype(np.float32)


@pytest.mark.parametrize("bands", [80, 128])
def test_features_equal_those_of_whisper(bands: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=bands)
    expected = extractor(SOUND, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert np.abs(log_mel(SOUND, bands, pad_to=480_000) - expected).max() < 1e-4
    without = extractor._np_extract_fbank_features(SOUND[None], "cpu")[0]
    assert np.abs(log_mel(SOUND, bands) - without).max() < 1e-4


def test_samples_equal_those_of_wav2vec2() -> None:
    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(
        SOUND, sampling_rate=16_000, return_tensors="np"
    ).input_values[0]
    assert np.abs(features_of(SOUND, Hearing(0)) - expected).max() < 1e-4


def test_a_sound_shorter_than_a_frame_has_one() -> None:
    assert log_mel(np.ones(50, np.float32), 80).shape == (80, 1)


def paths(log_p: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of every text: all paths, each collapsed."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        text = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        found[text] = found.get(text, 0.0) + math.exp(sum(log_p[frame, token] for frame, token in enumerate(path)))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_prefix_search_finds_the_most_probable_text(seed: int) -> None:
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(3) * 0.7, 6)).astype(np.float32)
    counted = paths(log_p, blank=0)
    assert ctc_search.search(log_p, 0, beams=50).tokens == max(counted, key=lambda text: counted[text])
    best = log_p.argmax(1)
    assert ctc_search.search(log_p, 0).tokens == tuple(token for token, _ in itertools.groupby(best) if token)


def test_the_loss_is_the_sum_over_all_paths() -> None:
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    counted = paths(logits[0].log_softmax(-1).numpy(), blank=0)
    for text in ((1,), (1, 2), (1, 1), (2, 1, 2)):
        loss = ctc_losses(logits, torch.tensor([5]), torch.tensor([[*text, -100]]), 0)
        assert loss.item() == pytest.approx(-math.log(counted[text]), abs=1e-4)


def test_a_row_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    model = SpeechForCTC(CTCConfig(vocab_size=7, embedding_size=8, hidden_size=8, pad_token_id=0)).eval()
    short, long = torch.randn(1, 80, 21), torch.randn(1, 80, 60)
    batch = torch.zeros(2, 80, 60)
    batch[0, :, :21], batch[1] = short[0], long[0]
    mask = torch.zeros(2, 60, dtype=torch.long)
    mask[0, :21] = mask[1] = 1
    with torch.inference_mode():
        alone, together = model(short).logits[0], model(batch, attention_mask=mask).logits[0]
    assert len(alone) == int(model.output_lengths(torch.tensor(21))) == 11
    assert torch.allclose(alone, together[:11], atol=1e-5)
