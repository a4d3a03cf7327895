"""A Whisper exported for CTranslate2 writes what its source writes, in every verb that takes it as a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import speech_models
from tests.serve.conftest import running

Inside = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export-speech")
    for name in ("whisper", "clips"):
        (root / name).mkdir()
    speech_models.whisper(root / "whisper", multilingual=True)
    speech_models.clips(root / "clips", 4)
    return root


@pytest.fixture(scope="module")
def exported(inside: Inside, folder: Path) -> Path:
    found = inside("export", folder / "whisper", "--to", "ctranslate2", "--out", folder / "ct2", "--verify", "4")
    assert [(each["what"], each["met"]) for each in found["checks"]] == [("token_ids", True), ("greedy_text", True)]
    return folder / "ct2"


@pytest.mark.parametrize("given", [(), ("--timestamps",), ("--max-new-tokens", "3"), ("--max-new-tokens", "2")])
def test_generate_writes_what_the_source_writes(
    inside: Inside, folder: Path, exported: Path, given: tuple[str, ...]
) -> None:
    clips = str(folder / "clips" / "*.flac")
    rows = [
        inside("generate", "--model", model, "--input", clips, "--set", "max_new_tokens=20", *given)["completions"]
        for model in (folder / "whisper", exported)
    ]
    assert rows[0] == rows[1]
    assert any(row["text"] for row in rows[0])


@pytest.mark.parametrize("given", [(), ("--timestamps",)])
def test_a_transcript_longer_than_half_of_the_decoder_is_written_to_its_end(
    inside: Inside, folder: Path, exported: Path, given: tuple[str, ...]
) -> None:
    """CTranslate2 generates half of its `max_length`."""
    clips = str(folder / "clips" / "*.flac")
    rows = [
        inside("generate", "--model", model, "--input", clips, *given)["completions"]
        for model in (folder / "whisper", exported)
    ]
    assert rows[0] == rows[1]
    assert any(row["tokens"] > 32 for row in rows[0])


def test_eval_and_serve_take_the_folder(inside: Inside, folder: Path, exported: Path) -> None:
    words = ("--data", "spoken-numbers-en-voices", "--limit", "3", "--set", "max_new_tokens=20")
    ours, theirs = (inside("eval", "--model", model, *words)["scores"] for model in (folder / "whisper", exported))
    assert [each["value"] for each in ours] == [each["value"] for each in theirs]
    [row] = inside("generate", "--model", exported, "--input", folder / "clips" / "1.flac", "--max-new-tokens", "60")[
        "completions"
    ]
    with running(exported) as server:
        create = server.client().audio.transcriptions.create
        assert create(file=folder / "clips" / "1.flac", model="ct2").text == row["text"]
        assert create(file=folder / "clips" / "1.flac", model="ct2", language="zh").text != row["text"]


def test_a_whisper_without_the_control_tokens_is_refused(llmctl: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    speech_models.whisper(tmp_path / "own", multilingual=False)
    path = tmp_path / "own" / "tokenizer.json"
    text = path.read_text(encoding="utf-8").replace("<|notimestamps|>", "<|other|>")
    path.write_text(json.dumps(json.loads(text)), encoding="utf-8")
    done = llmctl("export", tmp_path / "own", "--to", "ctranslate2", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "lacks <|notimestamps|>" in done.stderr
    assert not (tmp_path / "out").exists()
