"""Files that are not UTF-8: what each verb says helps, done to the letter, helps."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmctl.cli.main import run

Run = Callable[..., tuple[int, str]]

LINES = ["Müller's café", "straße à côté"]
TEXT = "".join(f"{line}\n" for line in LINES)
RECORDS = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in LINES)
ECHO = ("--set", "engine=echo", "--max-new-tokens", "8")
FILE = "old"

READS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "generate from text": (".txt", TEXT, ("generate", "--model", "lm", "--input", FILE, *ECHO)),
    "generate from records": (".jsonl", RECORDS, ("generate", "--model", "lm", "--input", FILE, *ECHO)),
    "generate from a packed file": (".jsonl.gz", RECORDS, ("generate", "--model", "lm", "--input", FILE, *ECHO)),
    "eval of data": (".jsonl", RECORDS, ("eval", "--model", "lm", "--data", FILE, "--metric", "perplexity")),
    "predictions": (".txt", TEXT, ("eval", "--predictions", FILE, "--references", "right.txt", "--metric", "bleu")),
    "references": (".jsonl", RECORDS, ("eval", "--predictions", "right.txt", "--references", FILE, "--metric", "bleu")),
    "a pipe into chat": (".txt", TEXT, ("chat", "--model", "llama", "--set", "engine=echo", "--max-new-tokens", "8")),
    "preprocess": (
        ".jsonl",
        RECORDS,
        ("preprocess", FILE, "--task", "lm", "--out", "data", "--vocab-size", "300", "--workers", "1"),
    ),
}


@pytest.fixture
def here(tmp_path: Path, chat_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("llama", "lm"):
        shutil.copytree(chat_folders[name], tmp_path / name)
    (tmp_path / "right.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command; `typed` comes through its pipe. Returns exit code and standard error."""

    def call(words: Sequence[str], typed: bytes = b"") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        return run(words), capsys.readouterr().err

    return call


@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "latin1"])
@pytest.mark.parametrize("read", READS)
def test_the_hint_on_a_foreign_encoding_followed_to_the_letter_helps(
    read: str, encoding: str, ran: Run, here: Path
) -> None:
    ending, text, words = READS[read]
    content = text.encode(encoding)
    old = here / f"old{ending}"
    old.write_bytes(gzip.compress(content, mtime=0) if ending.endswith(".gz") else content)

    def asked(file: Path, *more: str) -> tuple[int, str]:
        typed = file.read_bytes() if FILE not in words else b""
        return ran([*(file.name if word == FILE else word for word in words), *more], typed)

    code, told = asked(old)
    assert code == 3, told
    hint = told.splitlines()[-1]
    if words[0] == "preprocess":
        assert f"--encoding {encoding}" in hint
        code, told = asked(old, "--encoding", encoding)
    else:
        assert "--encoding" not in hint
        command = hint.partition("convert it: ")[2].partition(";")[0]
        subprocess.run(
            ["bash", "-c", command.replace("ENCODING", "latin1").replace("FILE", old.name).replace("NEW", "new")],
            check=True,
        )
        [new] = here.glob("new*")
        code, told = asked(new)
    assert code == 0, told


def test_a_missing_field_is_told_with_the_fields_that_a_record_has(ran: Run, here: Path) -> None:
    (here / "bad.jsonl").write_text('{"body": "a"}\n', encoding="utf-8")
    code, told = ran(["eval", "--model", "lm", "--data", "bad.jsonl", "--metric", "perplexity"])
    assert code == 3
    assert "required fields: text; optional: id" in told


@pytest.mark.parametrize("read", READS)
def test_utf_16_with_a_byte_order_mark_is_read(read: str, ran: Run, here: Path) -> None:
    ending, text, words = READS[read]
    content = text.encode("utf-16")
    old = here / f"old{ending}"
    old.write_bytes(gzip.compress(content, mtime=0) if ending.endswith(".gz") else content)
    code, said = ran([old.name if word == FILE else word for word in words], content if FILE not in words else b"")
    assert code == 0, said
