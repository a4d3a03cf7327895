"""Recordings of every kind are read, or refused with the name of the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmctl.data.audio import sound
from llmctl.data.reading import recordings
from llmctl.data.spec import SAMPLE_RATE
from llmctl.errors import DataError
from llmctl.types import Audio, Record


def tone(rate: int, seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16_000, 1, "PCM_16"),
        ("a.wav", 16_000, 1, "PCM_U8"),
        ("a.wav", 96_000, 2, "PCM_24"),
        ("a.wav", 44_100, 2, "FLOAT"),
        ("a.wav", 15_999, 1, "PCM_16"),
        ("a.flac", 48_000, 2, "PCM_16"),
        ("a.flac", 22_050, 1, "PCM_16"),
        ("a.ogg", 44_100, 1, "VORBIS"),
        ("a.mp3", 44_100, 1, "MPEG_LAYER_III"),
    ],
)
def test_every_format_rate_and_number_of_channels(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str
) -> None:
    place = tmp_path / name
    soundfile.write(place, np.stack([tone(rate)] * channels, 1), rate, subtype=subtype)
    samples = sound.read(Audio(str(place)))
    assert abs(len(samples) - SAMPLE_RATE) <= (0 if name != "a.mp3" else 2_500)  # MP3 pads
    begin = 4_000
    spectrum = np.abs(np.fft.rfft(samples[begin : begin + 8_000] * np.hanning(8_000)))
    assert spectrum.argmax() == 220  # bins of 2 Hz
    assert np.abs(samples[begin:-begin]).max() == pytest.approx(0.5, abs=0.05)
    assert sound.seconds_of(Audio(str(place))) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_is_exact_in_any_blocks(rate: int) -> None:
    samples = tone(rate, 1.3, 1_000.0)
    at_once = np.concatenate(list(sound.resampled([samples], rate, SAMPLE_RATE)))
    blocks = [samples[start : start + 777] for start in range(0, len(samples), 777)]
    assert np.array_equal(at_once, np.concatenate(list(sound.resampled(blocks, rate, SAMPLE_RATE))))
    assert len(at_once) == round(1.3 * SAMPLE_RATE)
    assert np.abs(at_once - tone(SAMPLE_RATE, 1.3, 1_000.0))[500:-500].max() < 1e-4


def test_frequencies_that_the_lower_rate_cannot_hold_are_removed() -> None:
    samples = tone(44_100, 1.0, 12_000.0)  # would become 4 kHz
    assert np.abs(np.concatenate(list(sound.resampled([samples], 44_100, SAMPLE_RATE)))[500:-500]).max() < 1e-3


def wav(seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, seconds), 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def flac(seconds: float = 1.0) -> bytes:
    return sound.flac(tone(16_000, seconds))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"This is no sound.\n" * 40, "not audio that can be read"),
        ("cut.wav", wav()[:20_000], "cut off: 12,044 of its bytes are missing"),
        ("cut.flac", flac()[:5_000], "cut off"),
        ("header.wav", wav()[:30], "not audio that can be read"),
        ("silent.wav", wav(0), "0 seconds"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        sound.read(Audio(str(tmp_path / name)))
    assert caught.value.where == str(tmp_path / name)
    with pytest.raises(DataError, match=said) as caught:  # as Parquet and clients send it
        sound.read(Audio(name, content))
    assert caught.value.where == name


@pytest.mark.parametrize("name", ["a.flac", "a.aiff", "a.mp3"])
def test_a_title_about_recordings_is_no_header_of_an_mp3(tmp_path: Path, name: str) -> None:
    with soundfile.SoundFile(tmp_path / name, "w", 16_000, 1) as file:
        file.title = "Info about recordings"
        file.write(tone(16_000))
    content = (tmp_path / name).read_bytes()
    assert b"Info about" in content
    for audio in (Audio(str(tmp_path / name)), Audio(name, content)):
        assert len(sound.read(audio)) >= 16_000


def test_a_flac_behind_a_tag_is_no_mp3(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16_000, 1) as file:
        file.title = "Info about recordings"
        file.write(tone(16_000))
    tagged = tmp_path / "tagged.flac"
    tagged.write_bytes(b"ID3\4\0\0\0\0\0\x0a0123456789" + (tmp_path / "a.flac").read_bytes())
    assert len(sound.read(Audio(str(tagged)))) == 16_000


def test_an_mp3_that_is_cut_off_is_refused_with_and_without_a_tag(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", tone(16_000, 4.0), 16_000)
    whole = (tmp_path / "a.mp3").read_bytes()
    for tag in (b"", b"ID3\4\0\0\0\0\0\x0a0123456789"):
        sound.read(Audio("a.mp3", tag + whole))
        with pytest.raises(DataError, match="cut off"):
            sound.read(Audio("a.mp3", tag + whole[: len(whole) // 2]))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan, 0.1], np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match="finite"):
        sound.read(Audio(str(tmp_path / "a.wav")))


def test_a_long_recording_is_cut_at_pauses_and_nothing_is_lost() -> None:
    loud, pause = tone(16_000, 2.0), np.zeros(8_000, np.float32)
    whole = np.concatenate([loud, pause] * 8)  # a pause every 2.5 s
    audio = Audio("a.flac", sound.flac(whole))
    windows = list(sound.windows(audio, 6.0))
    assert np.array_equal(np.concatenate([window.samples for window in windows]), sound.read(audio))
    assert [window.start for window in windows[1:]] == [window.end for window in windows[:-1]]
    assert all(window.end - window.start <= 6.0 for window in windows)
    for window in windows[1:]:
        assert 2.0 < window.start % 2.5 < 2.5
    assert [len(window.samples) for window in sound.windows(audio, 60.0)] == [len(whole)]


def opened(value: object, folder: Path) -> Audio:
    record = Record("1", {"audio": value, "text": "one"}, "a.jsonl:1")
    found: Audio = recordings.loaded(["audio"])(record, folder).fields["audio"]
    return found


def test_paths_are_relative_to_the_file_and_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inner" / "clips").mkdir(parents=True)
    (tmp_path / "inner" / "clips" / "a b.wav").write_bytes(wav())
    (tmp_path / "outer.wav").write_bytes(wav())
    for name in ("clips/a b.wav", "a b.wav", str(tmp_path / "inner" / "clips" / "a b.wav")):  # Common Voice has clips/
        found = opened(name, tmp_path / "inner")
        assert found.path == name
        assert len(sound.read(found)) == 16_000
    for name in ("../outer.wav", str(tmp_path / "outer.wav"), "clips/../../outer.wav"):
        with pytest.raises(DataError, match="lies outside the folder"):
            opened(name, tmp_path / "inner")
    for value, said in (("gone.wav", "no such audio file"), ("", "empty"), (3, "is int"), ("a\0.wav", "NUL")):
        with pytest.raises(DataError, match=said):
            opened(value, tmp_path / "inner")


def test_recordings_that_parquet_holds_are_kept_alike(tmp_path: Path) -> None:
    from_file = opened({"bytes": wav(), "path": "a.wav"}, tmp_path)
    (tmp_path / "b.wav").write_bytes(wav())
    assert from_file.data == opened("b.wav", tmp_path).data


def test_a_recording_too_long_to_train_on_is_refused_by_its_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(8_000 * 601, np.float32), 8_000)
    with pytest.raises(DataError, match="601 seconds long"):
        opened("long.flac", tmp_path)
