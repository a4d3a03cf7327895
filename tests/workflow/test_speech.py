"""Speech recognition as its users see it: recordings in, text, times, subtitles and scores out; what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.torch import load_file

import llmctl as llmctl_api
from llmctl import registry
from llmctl.data.audio import sound
from llmctl.types import Audio

Inside = Callable[..., dict[str, Any]]
SHAPE = ("--set=model.layers=1", "--set=model.hidden=64", "--set=model.embedding=64", "--set=precision=fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speech")


@pytest.fixture(scope="module")
def clips(folder: Path) -> Path:
    """32 recordings as files, with tables that name them."""
    place = folder / "clips"
    place.mkdir()
    with registry.load("datasets", "spoken-numbers-en").path() as path:
        rows = pq.read_table(path).to_pylist()[:32]
    with (place / "metadata.csv").open("w", newline="") as table, (place / "all.jsonl").open("w") as lines:
        writer = csv.writer(table)
        writer.writerow(["file_name", "transcription"])
        for number, row in enumerate(rows):
            (place / f"{number}.flac").write_bytes(row["audio"]["bytes"])
            writer.writerow([f"{number}.flac", row["text"]])
            lines.write(json.dumps({"audio": f"{number}.flac", "text": row["text"]}) + "\n")
    return place


@pytest.fixture(scope="module")
def prepared(inside: Inside, folder: Path, clips: Path) -> Path:
    whole = ("--set=splits.validation=0", "--set=splits.test=0", "--tokenizer", "char")
    inside("preprocess", clips / "all.jsonl", "--task", "asr", *whole, "--out", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def run(inside: Inside, folder: Path, prepared: Path) -> Path:
    settings = ("--max-steps", "160", "--batch-size", "16", "--set=optimizer.lr=0.01", *SHAPE)
    inside("train", "--data", prepared, "--model", "ctc", *settings, "--out", folder / "run")
    return folder / "run"


def test_a_folder_with_a_table_and_a_file_of_records_are_the_same_data(
    inside: Inside, folder: Path, clips: Path, prepared: Path
) -> None:
    found = inside("preprocess", clips, "--task", "asr", "--tokenizer", "char", "--out", folder / "from-folder")
    assert found["records"]["kept"] == 32
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["lengths"]["train"]["seconds"] == pytest.approx(19.0, abs=6)
    assert "| tokens | seconds |" in (prepared / "README.md").read_text()


def test_prepared_data_holds_the_recordings(prepared: Path, clips: Path) -> None:
    row = pq.read_table(prepared / "text" / "train-00000.parquet").to_pylist()[0]
    held = sound.read(Audio(row["audio"]["path"], row["audio"]["bytes"]))
    own = sound.read(Audio(str(clips / row["audio"]["path"])))
    assert np.abs(held - own.clip(-1, 1)).max() < 2.0**-14  # resampling may exceed what 16 bits hold


def test_thirty_two_recordings_are_learned(inside: Inside, prepared: Path, run: Path) -> None:
    scores = inside("eval", "--model", run, "--data", prepared, "--split", "train", "--metric", "wer")["scores"]
    assert scores[0]["value"] <= 0.05
    assert scores[0]["n"] == 32


def test_a_run_that_is_resumed_is_the_same(inside: Inside, folder: Path, prepared: Path) -> None:
    words = ("--max-steps", "6", "--set=model.dropout=0.1", "--set=save_every=3", *SHAPE)
    inside("train", "--data", prepared, "--model", "ctc", *words, "--out", folder / "whole")
    shutil.copytree(folder / "whole", folder / "part")
    shutil.rmtree(folder / "part" / "checkpoints" / "step-00000006")
    found = inside("train", "--resume", folder / "part")
    assert found["resumed_from"].endswith("step-00000003")
    one, other = (load_file(folder / name / "model" / "model.safetensors") for name in ("whole", "part"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_generate_prints_the_text_of_a_recording(llmctl: Any, run: Path, clips: Path, folder: Path) -> None:
    rows = [json.loads(line) for line in (clips / "all.jsonl").read_text().splitlines()]
    done = llmctl("generate", "--model", run, "--input", clips / "0.flac")
    assert (done.returncode, done.stdout) == (0, f"{rows[0]['text']}\n"), done.stderr
    done = llmctl("generate", "--model", run, "--input", clips / "0.flac", "--timestamps")
    assert done.stdout.startswith("[00:00:00.")
    assert done.stdout.endswith(f"] {rows[0]['text']}\n")
    done = llmctl("generate", "--model", run, "--input", clips / "0.flac", "--output", folder / "a.srt")
    number, times, text = (folder / "a.srt").read_text().splitlines()
    assert (number, text) == ("1", rows[0]["text"])
    assert " --> 00:00:0" in times
    done = llmctl("generate", "--model", run, "--input", str(clips / "[0-3].flac"))
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [row["text"] for row in rows[:4]]


def test_python_takes_the_record_of_a_recording(run: Path, clips: Path) -> None:
    model, path = llmctl_api.load(run), clips / "0.flac"
    assert model.generate({"audio": str(path)}).text == model.generate(str(path)).text
    assert model.generate([{"audio": path}])[0].text == model.generate(str(path)).text


def test_a_long_recording_is_the_text_of_its_windows(inside: Inside, run: Path, clips: Path, folder: Path) -> None:
    pause = np.zeros(12_000, np.float32)
    parts = [each for number in range(30) for each in (sound.read(Audio(str(clips / f"{number}.flac"))), pause)]
    long = folder / "long.wav"
    soundfile.write(long, np.concatenate(parts), 16_000, subtype="FLOAT")
    windows = list(sound.windows(Audio(str(long)), 30.0))
    assert len(windows) > 1
    (folder / "windows").mkdir()
    for number, window in enumerate(windows):
        soundfile.write(folder / "windows" / f"{number}.wav", window.samples, 16_000, subtype="FLOAT")
    [found] = inside("generate", "--model", run, "--input", long)["completions"]
    alone = inside("generate", "--model", run, "--input", folder / "windows")["completions"]
    assert found["text"] == " ".join(each["text"] for each in alone if each["text"])
    starts = [part["start"] for part in found["segments"]]
    assert starts == sorted(starts)
    assert 30 < found["segments"][-1]["end"] <= windows[-1].end + 0.05


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.wav", b"", "the audio file is empty"),
        ("text.wav", b"no sound at all, but words\n", "not audio that can be read"),
        ("gone.wav", None, "no such"),
    ],
)
def test_bad_recordings_end_with_3_and_their_name(
    llmctl: Any, run: Path, clips: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
        done = llmctl("generate", "--model", run, "--input", tmp_path / name)
        assert done.returncode == 3
        assert name in done.stderr
        assert said in done.stderr
    (tmp_path / "rows.jsonl").write_text(json.dumps({"audio": name, "text": "one"}) + "\n")
    done = llmctl("preprocess", tmp_path / "rows.jsonl", "--task", "asr", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert name in done.stderr


def test_a_table_whose_recordings_are_all_missing_says_where_they_belong(inside: Inside, tmp_path: Path) -> None:
    rows = [json.dumps({"audio": f"{number}.wav", "text": "one"}) for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    words = ["preprocess", tmp_path / "rows.jsonl", "--task", "asr", "--out", tmp_path / "out"]
    hint = inside(*words, code=3)["error"]["hint"]
    assert f"put the recordings into {tmp_path}" in hint
    assert "jsonl file" not in hint


def cut(folder: Path, name: str, samples: np.ndarray[Any, Any]) -> Path:
    """The first half of a file."""
    soundfile.write(folder / name, samples, 16_000)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    return folder / name


@pytest.mark.parametrize("name", ["cut.flac", "cut.wav", "cut.ogg", "cut.mp3"])
def test_a_recording_that_is_cut_off_ends_with_3_and_its_name(
    inside: Inside, run: Path, clips: Path, tmp_path: Path, name: str
) -> None:
    path = cut(tmp_path, name, np.tile(sound.read(Audio(str(clips / "0.flac"))), 30))
    for output in ((), ("--output", tmp_path / "a.srt"), ("--timestamps",)):
        error = inside("generate", "--model", run, "--input", path, *output, code=3)["error"]
        assert name in error["message"]
        assert "cut off" in error["message"]
    assert not (tmp_path / "a.srt").exists()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"audio": name, "text": "one"}) + "\n")
    assert name in inside("eval", "--model", run, "--data", tmp_path / "rows.jsonl", code=3)["error"]["message"]
    words = ("--task", "asr", "--out", tmp_path / "out")
    assert name in inside("preprocess", tmp_path / "rows.jsonl", *words, code=3)["error"]["message"]


@pytest.mark.parametrize("written", [True, False])
def test_a_bad_recording_among_others_is_a_row_with_an_error(
    inside: Inside, run: Path, clips: Path, tmp_path: Path, written: bool
) -> None:
    good = sound.read(Audio(str(clips / "0.flac")))
    for name in ("a.flac", "c.flac"):
        soundfile.write(tmp_path / name, good, 16_000)
    cut(tmp_path, "b.flac", np.tile(good, 30))
    output = ("--output", tmp_path / "rows.jsonl") if written else ()
    found = inside("generate", "--model", run, "--input", str(tmp_path / "*.flac"), *output, code=10)
    rows = found["completions"]
    if written:
        assert ["error" in row for row in rows] == [False, False]
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(tmp_path / f"{name}.flac") for name in "abc"]
    assert ["error" in row for row in rows] == [False, True, False]
    assert "b.flac: cut off" in rows[1]["error"]


def test_formats_of_wav_give_the_same_text(inside: Inside, run: Path, clips: Path, tmp_path: Path) -> None:
    good = sound.read(Audio(str(clips / "0.flac")))
    soundfile.write(tmp_path / "16.wav", good, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "24.wav", good, 16_000, subtype="PCM_24")
    soundfile.write(tmp_path / "stereo.wav", np.stack([good, good], 1), 16_000, subtype="FLOAT")
    fine = np.fft.irfft(np.pad(np.fft.rfft(good), (0, 5 * len(good) // 2)), 6 * len(good)) * 6
    soundfile.write(tmp_path / "96k.wav", fine, 96_000, subtype="FLOAT")
    soundfile.write(tmp_path / "8bit.wav", np.clip(4 * good, -1, 1), 16_000, subtype="PCM_U8")
    found = {row["id"]: row for row in inside("generate", "--model", run, "--input", tmp_path)["completions"]}
    texts = {Path(name).stem: row["text"] for name, row in found.items()}
    assert texts.keys() == {"16", "24", "stereo", "96k", "8bit"}
    assert texts["16"] == texts["24"] == texts["stereo"] == texts["96k"]


def test_speech_models_are_compared(inside: Inside, clips: Path, tmp_path: Path) -> None:
    inside("preprocess", clips, "--task", "asr", "--tokenizer", "char", "--out", tmp_path / "data")
    words = ("--max-steps", "2", "--batch-size", "2", "--lr", "0.001", "--precision", "fp32", "--limit", "2")
    shape = ("--set", "train.model.layers=1", "--set", "train.model.hidden=64")
    given = ("--data", tmp_path / "data", "--models", "ctc,whisper", *words, *shape, "--out", tmp_path / "out")
    rows = inside("compare", *given)["rows"]
    assert [(row["model"], row["status"], row["steps"]) for row in rows] == [("ctc", "ok", 2), ("whisper", "ok", 2)]
    assert [[score["metric"] for score in row["scores"]] for row in rows] == [["wer", "cer"]] * 2


def test_a_model_that_hears_has_no_nearest_words(inside: Inside, run: Path) -> None:
    error = inside("show", "models", str(run), "--nearest", "one", code=2)["error"]
    assert "recordings" in error["hint"]


def test_rejected_recordings_are_counted_and_kept_by_name(inside: Inside, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "3.flac").write_bytes(b"broken")
    words = ("--on-bad-record", "skip", "--tokenizer", "char", "--out", tmp_path / "out")
    found = inside("preprocess", tmp_path / "clips" / "all.jsonl", "--task", "asr", *words)
    assert found["records"] == {"read": 32, "kept": 31, "dropped": {"bad_record": 1}, "rejected": 0}


def test_a_whisper_of_random_weights_trains_and_answers(
    inside: Inside, prepared: Path, folder: Path, clips: Path
) -> None:
    shape = ("--set=model.layers=1", "--set=model.hidden=16", "--set=model.heads=2", "--set=model.inner=32")
    words = ("--max-steps", "2", "--batch-size", "2", "--set=precision=fp32")
    inside("train", "--data", prepared, "--model", "whisper", *shape, *words, "--out", folder / "whisper")
    assert json.loads((folder / "whisper/model/preprocessor_config.json").read_text())["feature_size"] == 80
    words = ("--input", clips / "0.flac", "--max-new-tokens", "3")
    [found] = inside("generate", "--model", folder / "whisper", *words)["completions"]
    assert found["tokens"] <= 3


def test_a_model_that_reads_texts_refuses_recordings(llmctl: Any, run: Path, clips: Path, request: Any) -> None:
    done = llmctl("train", "--data", request.getfixturevalue("sonnets"), "--model", "ctc", "--out", clips / "never")
    assert done.returncode == 2
    assert "is of the family ctc" in done.stderr
