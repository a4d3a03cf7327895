"""Log-mel features of speech: the logarithm of the energy in bands as wide as the ear resolves, 100 times a second.

    S[t, f] = |Σ_n w[n] x[160 t + n - 200] exp(-2πi f n / 400)|²     frames of 25 ms, every 10 ms, Hann window w
    L = log10 max(mel · S, 1e-10)                                     bands on the mel scale (Slaney 1998)
    features = (max(L, max L - 8) + 4) / 4                            80 dB below the loudest and less is silence

The definition is Whisper's (Radford et al. 2022, arXiv:2212.04356, section 2.2, and its code).

Letters: N samples, T = N / 160 frames, F = 201 frequencies, M mel bands.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.spec import FRAME_SAMPLES, SAMPLE_RATE

WINDOW: Final = 400
"""Samples of a frame: 25 ms."""
FRAMES_AT_ONCE: Final = 3000

Features = NDArray[np.float32]


def log_mel(samples: NDArray[np.float32], bands: int, *, pad_to: int | None = None) -> Features:
    """(N,) -> (M, T). `pad_to`: number of samples that silence fills up to, as Whisper's 30 seconds."""
    if pad_to is not None and len(samples) < pad_to:
        samples = np.concatenate([samples, np.zeros(pad_to - len(samples), np.float32)])
    padded = _reflected(samples)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::FRAME_SAMPLES]
    frames = frames[: max(1, len(samples) // FRAME_SAMPLES)]  # (T, 400), a view
    window, filters = _hann(), mel_filters(bands)
    out = np.empty((bands, len(frames)), np.float32)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(frames[first : first + FRAMES_AT_ONCE] * window)  # (T, F)
        energy = np.square(spectrum.real) + np.square(spectrum.imag)
        out[:, first : first + FRAMES_AT_ONCE] = np.log10(np.maximum(filters @ energy.T, 1e-10))
    np.maximum(out, out.max() - 8.0, out=out)
    out += 4.0
    out *= 0.25
    return out


def _reflected(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples with half a window of their reflection at both ends; a shorter sound is filled with silence first."""
    half = WINDOW // 2
    if len(samples) <= half:
        samples = np.concatenate([samples, np.zeros(half + 1 - len(samples), np.float32)])
    return np.pad(samples, half, mode="reflect")


@functools.cache
def _hann() -> NDArray[np.float32]:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@functools.cache
def mel_filters(bands: int) -> NDArray[np.float32]:
    """(M, F) triangles whose corners are equally spaced on the mel scale from 0 to 8 kHz, each of area 2 / width in Hz."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)  # (F,)
    corners = _hertz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), bands + 2))  # (M + 2,)
    widths = np.diff(corners)  # (M + 1,)
    slopes = corners[:, None] - frequencies[None]  # (M + 2, F)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (corners[2:] - corners[:-2]))[:, None]
    return triangles.astype(np.float32)


# Slaney's mel scale: linear up to 1 kHz, 15 mels, then 27 mels for a factor of 6.4.
_LINEAR: Final = 200.0 / 3
_KNEE: Final = 1000.0
_STEP: Final = np.log(6.4) / 27.0


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _KNEE else _KNEE / _LINEAR + float(np.log(hertz / _KNEE)) / _STEP


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _KNEE / _LINEAR
    found: NDArray[np.float64] = np.where(mels < knee, mels * _LINEAR, _KNEE * np.exp(_STEP * (mels - knee)))
    return found
