"""Data files, recipes, checkpoints, GGUF files and environments that nobody meant."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import HELD, Strike, edit
from tests.attacks.mutations import DAMAGES

Copy = Callable[[str], Path]
TINY = ("--set", "model.layers=1", "--set", "model.hidden=16", "--set", "model.embedding=8", "--batch-size", "8")

# -- data files -----------------------------------------------------------------------------------------------------

DATA: dict[str, tuple[str, bytes]] = {
    "empty": ("a.jsonl", b""),
    "blank lines": ("a.jsonl", b"\n \n\n"),
    "byte order mark": ("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n' * 20),
    "UTF-16": ("a.jsonl", '{"text": "x"}\n'.encode("utf-16") * 3),
    "latin-1": ("a.jsonl", b'{"text": "\xe9"}\n' * 5),
    "NUL": ("a.jsonl", b'{"text": "a\\u0000b"}\n' * 20),
    "raw NUL": ("a.jsonl", b'{"text": "a\x00b"}\n' * 5),
    "escapes": ("a.jsonl", b'{"text": 5, "\\u001b[2J": 1}\n' * 5),
    "an escape in a key": ("a.jsonl", b'{"\\u001b]0;pwned\\u0007": "x"}\n' * 5),
    "cut": ("a.jsonl", b'{"text": "x"}\n{"text": "y'),
    "deep": ("a.jsonl", b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "a long number": ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n"),
    "not a number": ("a.jsonl", b'{"text": NaN}\n'),
    "a lone surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n' * 5),
    "a list": ("a.jsonl", b"[1, 2]\n" * 5),
    "null": ("a.jsonl", b"null\n" * 5),
    "keys twice": ("a.jsonl", b'{"text": "x", "text": "y"}\n' * 5),
    "many keys": ("a.jsonl", b'{"text": "x", ' + b", ".join(b'"k%d": 1' % n for n in range(20_000)) + b"}\n"),
    "a wide table": ("a.csv", b"text," + b",".join(b"c%d" % n for n in range(20_000)) + b"\n" + b"x," * 20_000 + b"\n"),
    "an open quote": ("a.csv", b'text,label\n"x,pos\n' * 20),
    "too few cells": ("a.csv", b"text,label\nx\n" * 20),
    "the same column twice": ("a.csv", b"text,text\nx,y\n" * 20),
    "an empty header": ("a.csv", b",,\nx,y,z\n" * 5),
    "no parquet": ("a.parquet", b"PAR1" + bytes(100)),
    "cut parquet": ("a.parquet", b"PAR1"),
    "no gzip": ("a.jsonl.gz", b"\x1f\x8b" + bytes(50)),
    "cut gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 5000, mtime=0)[:-20]),
    "no zstd": ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + bytes(50)),
    "a bomb": ("a.txt.gz", gzip.compress(bytes(50_000_000), mtime=0)),
    "a zip": ("a.txt", b"PK\x03\x04" + bytes(range(256)) * 8),
    "an image": ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8),
    "marks": ("a.txt", ("a" + "\u0301" * 20_000 + "\n").encode()),
    "a long word": ("a.txt", b"a" * 50_000 + b"\n"),
    "right to left": ("a.txt", "\u202eabc\u202c\n".encode() * 20),
    "carriage returns": ("a.txt", b"one line\rother line\r" * 20),
    "a pickle": ("a.jsonl", b"\x80\x04\x95\x10\x00\x00\x00"),
}


@pytest.mark.parametrize("name", DATA)
def test_a_data_file(strike: Strike, tmp_path: Path, name: str) -> None:
    file, content = DATA[name]
    (tmp_path / file).write_bytes(content)
    before = (tmp_path / file).read_bytes()
    words = ("preprocess", tmp_path / file, "--task", "lm", "--tokenizer", "byte", "--set", "splits.validation=0")
    said = strike(*words, "--out", tmp_path / "out")
    assert '"status": "ok"' in said or not (tmp_path / "out").exists()
    assert (tmp_path / file).read_bytes() == before


@pytest.mark.parametrize("skip", ["skip", "reject"])
@pytest.mark.parametrize("name", [name for name in DATA if DATA[name][0].endswith(("jsonl", "csv"))])
def test_a_data_file_whose_bad_records_are_left_out(strike: Strike, tmp_path: Path, name: str, skip: str) -> None:
    file, content = DATA[name]
    (tmp_path / file).write_bytes(content)
    words = ("preprocess", tmp_path / file, "--task", "lm", "--tokenizer", "byte", "--on-bad-record", skip)
    strike(*words, "--out", tmp_path / "out", codes={*HELD, 10})


@pytest.mark.parametrize("name", [name for name in DATA if DATA[name][0].endswith("jsonl")])
def test_a_file_of_prompts(strike: Strike, copy: Copy, tmp_path: Path, name: str) -> None:
    file, content = DATA[name]
    (tmp_path / file).write_bytes(content)
    words = ("generate", "--model", copy("llama"), "--input", tmp_path / file, "--max-new-tokens", "2")
    strike(*words, "--output", tmp_path / "out.jsonl", codes={*HELD, 10})


@pytest.mark.parametrize("name", [name for name in DATA if DATA[name][0].endswith(("jsonl", "txt"))])
def test_a_file_of_predictions(strike: Strike, tmp_path: Path, name: str) -> None:
    file, content = DATA[name]
    (tmp_path / file).write_bytes(content)
    (tmp_path / "right.txt").write_text("x\n" * 20)
    words = ("eval", "--predictions", tmp_path / file, "--references", tmp_path / "right.txt", "--metric", "chrf")
    strike(*words, codes={*HELD, 10})


# -- recipes --------------------------------------------------------------------------------------------------------

RECIPES: dict[str, str] = {
    "python": "train: !!python/object/apply:os.system ['echo evil']",
    "a Python name": "train: !!python/name:os.system",
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: &e [*d, *d]\nf: &f [*e, *e]\ntrain: *f",
    "an alias of itself": "a: &a [*a]\ntrain: *a",
    "keys twice": "train: {lr: 1}\ntrain: {lr: 2}",
    "a tab": "train:\n\tlr: 1",
    "deep": "[" * 2000,
    "deep blocks": "\n".join(" " * n + "a:" for n in range(1500)),
    "a list": "- train",
    "a text": "train",
    "empty": "",
    "null": "train: null",
    "escapes": 'train: {"\\e[2J": 1}',
    "an unknown verb": "trian: {lr: 1}",
    "a number as text": "train: {lr: '1e-3x', data: d, model: gpt2, out: o}",
    "negative": "train: {lr: -1, data: d, model: gpt2, out: o}",
    "not a number": "train: {lr: .nan, data: d, model: gpt2, out: o}",
    "infinite": "train: {lr: .inf, batch_size: 0, data: d, model: gpt2, out: o}",
    "larger than any": "train: {batch_size: 1000000000000000000000000, data: d, model: gpt2, out: o}",
    "a date": "train: {lr: 2024-01-01, data: 2024-01-01, model: gpt2, out: o}",
    "binary": "train: {lr: !!binary aGVsbG8=, data: d, model: gpt2, out: o}",
    "a set": "train: !!set {lr, data}",
    "keys that are lists": "train: {[a, b]: 1}",
    "keys that are numbers": "train: {1: 1, 2.5: 2, true: 3}",
    "many keys": "train: {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}",
    "a newer version": "version: 99\ntrain: {data: d}",
    "NUL in a path": 'preprocess: {inputs: ["a\\0b"], out: "o\\0o"}',
    "a long path": f"preprocess: {{inputs: [x], out: {'o' * 300}}}",
    "a path that is a number": "train: {data: 5, model: 5, out: 5}",
    "a number of 12,000 digits": "train: {seed: 0x" + "f" * 10_000 + "}",
    "merge keys": "a: &a {lr: 1}\ntrain: {<<: *a}",
    "a megabyte as a name": "train: {model: " + "m" * 1_000_000 + "}",
    "two documents": "train: {lr: 1}\n---\ntrain: {lr: 2}",
}


@pytest.mark.parametrize("verb", ["run", "train"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(strike: Strike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPES[name])
    words = ("run", "r.yaml") if verb == "run" else ("train", "--config", "r.yaml")
    assert len(strike(*words, codes={2, 3, 5})) < 20_000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["r.yaml"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00", b"\x80\x04", b"\xef\xbb\xbftrain: 5", bytes(range(256))])
def test_a_recipe_that_is_no_text(strike: Strike, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    strike("run", tmp_path / "r.yaml", codes={2, 3, 5})


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(inside: Any, sonnets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with two checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = (
        "train",
        "--data",
        sonnets,
        "--model",
        "rnn",
        "--max-steps",
        "4",
        "--set",
        "save_every=2",
        "--set",
        "precision=fp32",
    )
    inside(*words, *TINY, "--out", out)
    return out


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_checkpoint(strike: Strike, run: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    newest = max((copy / "checkpoints").iterdir())
    DAMAGES[damage](newest / name)
    strike("train", "--resume", copy, "--max-steps", "5", codes={0, 5})


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.jsonl"])
def test_a_damaged_file_of_a_run(strike: Strike, run: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    DAMAGES[damage](copy / name)
    strike("train", "--resume", copy, "--max-steps", "5")
    strike("runs", "show", copy)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "log.txt"])
def test_a_pipe_in_a_run_is_not_waited_for(strike: Strike, run: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert name in strike("train", "--resume", copy, "--max-steps", "5", codes={5})


STATES = ["position", "best", "waited", "validation", "train_loss", "window", "lr", "keyed", "history", "origin"]


@pytest.mark.parametrize("value", ["x", [{}]])
@pytest.mark.parametrize("key", STATES)
def test_a_state_that_llmctl_did_not_write_is_no_checkpoint(
    strike: Strike, run: Path, tmp_path: Path, key: str, value: object
) -> None:
    """Its hash is that of the manifest: somebody changed both."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    newest = max((copy / "checkpoints").iterdir())
    edit(newest / "state.json", key, value)
    edit(newest / "MANIFEST.json", "sha256", json.loads((newest / "MANIFEST.json").read_text())["sha256"] | {
        "state.json": hashlib.sha256((newest / "state.json").read_bytes()).hexdigest()})  # fmt: skip
    said = strike("train", "--resume", copy, "--max-steps", "5", codes={0})
    assert f"{newest.name}: state.json is not as llmctl writes it: {key}" in said


def test_rules_of_cleaning_in_an_older_manifest_are_checked_before_training(
    strike: Strike, dates: Path, tmp_path: Path
) -> None:
    """Manifests had no hash of their own."""
    copy = Path(shutil.copytree(dates, tmp_path / "data"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["clean"]["unicode"] = "evil"
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    said = strike("train", "--data", copy, "--model", "rnn", "--max-steps", "1", "--out", tmp_path / "run", codes={5})
    assert "clean.unicode" in said


# -- GGUF -----------------------------------------------------------------------------------------------------------


def gguf(*entries: bytes, tensors: int = 0, count: int | None = None, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(entries) if count is None else count) + b"".join(entries)


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


NAME = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
GGUFS: dict[str, bytes] = {
    "an array of 2^62": gguf(text(b"a") + struct.pack("<IIQ", 9, 4, 2**62)),
    "an array of 2^62 texts": gguf(text(b"a") + struct.pack("<IIQ", 9, 8, 2**62)),
    "an array of arrays": gguf(text(b"a") + struct.pack("<IIQ", 9, 9, 2**61)),
    "arrays in arrays": gguf(text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
    "a key of 2^63": gguf(text(b"a", 2**63)),
    "a text of 2^63": gguf(text(b"a") + struct.pack("<I", 8) + text(b"x", 2**63)),
    "2^62 entries": gguf(NAME, count=2**62),
    "2^62 tensors": gguf(NAME, tensors=2**62),
    "an unknown type": gguf(text(b"a") + struct.pack("<I", 77)),
    "version 99": gguf(NAME, version=99),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 1),
    "a name of bytes": gguf(text(b"general.architecture") + struct.pack("<I", 8) + text(b"\xff\x1b[2J")),
    "a name that is a number": gguf(text(b"general.architecture") + struct.pack("<II", 4, 5)),
    "no name": gguf(text(b"a") + struct.pack("<II", 4, 5)),
    "nothing": gguf(),
    "a billion layers": gguf(NAME, text(b"llama.block_count") + struct.pack("<II", 4, 10**9)),
    "32 dimensions": gguf(NAME, text(b"t") + struct.pack("<I", 2**31), tensors=1, count=1),
    "only the magic": b"GGUF",
    "zeros": b"GGUF" + bytes(100),
    "ones": b"GGUF" + b"\xff" * 100,
}


@pytest.mark.parametrize("verb", ["generate", "preprocess"])
@pytest.mark.parametrize("name", GGUFS)
def test_a_gguf_file(strike: Strike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(GGUFS[name])
    (tmp_path / "a.txt").write_text("hello\n" * 50)
    words = {
        "generate": ("--model", tmp_path / "m.gguf", "--prompt", "a"),
        "preprocess": (
            tmp_path / "a.txt",
            "--task",
            "lm",
            "--tokenizer",
            tmp_path / "m.gguf",
            "--out",
            tmp_path / "out",
        ),
    }
    strike(verb, *words[verb], codes={2, 5})


# -- environments ---------------------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "no home": {"HOME": None},
    "a home that is missing": {"HOME": "/nowhere"},
    "a C locale": {"LANG": "C", "LC_ALL": "C"},
    "a locale that is missing": {"LANG": "xx_XX.evil"},
    "a dumb terminal": {"TERM": "dumb", "COLUMNS": "20"},
    "columns that are no number": {"COLUMNS": "x", "LINES": "-1"},
    "a backend of plots": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "bogus threads": {"OMP_NUM_THREADS": "x", "TOKENIZERS_PARALLELISM": "maybe"},
    "verbose libraries": {"TRANSFORMERS_VERBOSITY": "debug", "HF_HUB_VERBOSITY": "debug"},
    "an unknown verbosity": {"TRANSFORMERS_VERBOSITY": "evil"},
    "Rust backtraces": {"RUST_BACKTRACE": "full"},
    "a cache that is a file": {"XDG_CACHE_HOME": "/dev/null", "HF_HOME": "/dev/null"},
    "warnings as errors": {"PYTHONWARNINGS": "error::ResourceWarning"},
    "an escape": {"HF_TOKEN": "\x1b[2J", "USER": "\x1b[2J"},
    "no colour and a pipe": {"NO_COLOR": "1", "CI": "true"},
    "no temporary folder": {"TMPDIR": "/nowhere"},
    "logs that torch does not know": {"TORCH_LOGS": "evil"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment(copy: Copy, name: str) -> None:
    environment = dict(os.environ)
    for key, value in ENVIRONMENTS[name].items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    command = [sys.executable, "-m", "llmctl", "generate", "--model", str(copy("llama")), "--prompt", "a", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode in (0, 4), done.stderr
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == ("ok" if done.returncode == 0 else "error")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--processes", 10**9), ("--machines", 10**9), ("--seed", 10**30), ("--set", "dpo.beta=.nan"), ("--lr", "1e400")],
)
def test_a_number_that_no_machine_follows_is_refused_at_once(
    strike: Strike, tmp_path: Path, option: str, value: object
) -> None:
    said = strike(
        "train", "--data", tmp_path, "--model", "rnn", "--out", tmp_path / "out", option, str(value), codes={2}
    )
    assert option.strip("-").replace("set", "dpo.beta") in said
