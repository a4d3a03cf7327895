"""The front door as a process: exit codes, the words of errors, what goes to which stream, odd terminals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmctl.catalog import VERBS
from llmctl.cli.main import EXIT_CODES

LLMCTL = [sys.executable, "-m", "llmctl"]


def llmctl(
    *words: str, env: dict[str, str | None] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **{name: value for name, value in (env or {}).items() if value is not None}}
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
    return subprocess.run([*LLMCTL, *words], capture_output=True, env=environment, cwd=cwd, stdin=subprocess.DEVNULL)


def test_help_names_every_verb_whole_and_every_exit_code() -> None:
    done = llmctl("--help", env={"COLUMNS": "80"})
    text = done.stdout.decode()
    assert done.returncode == 0
    assert done.stderr == b""
    assert "..." not in text.replace("[ARGS]...", "")
    flowing = " ".join(text.split())
    for row in VERBS:
        assert f"{row.name} {row.summary}" in flowing
    lines = [line.strip() for line in text.splitlines()]
    for code, meaning in EXIT_CODES:
        assert f"{code}  {meaning}" in lines


def test_no_words_are_a_question_for_help() -> None:
    assert llmctl().stdout == llmctl("--help").stdout


def test_version() -> None:
    from llmctl import __version__

    assert llmctl("--version").stdout.decode() == f"llmctl {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["trian"], "no such command 'trian'", "did you mean 'train'?"),
        (["zzz"], "no such command 'zzz'", "see: llmctl --help"),
        (["train", "--modle", "gpt2"], "no such option: --modle", "did you mean '--model'?"),
        (["train", "--layers", "3"], "no such option: --layers", "--set model.layers=3"),
        (["train", "--weight-decay=0.1"], "no such option: --weight-decay", "--set optimizer.weight_decay=0.1"),
        (["train", "--model"], "option '--model' requires an argument", "see: llmctl train --help"),
        (["list", "modles"], "no such kind 'modles'", "did you mean 'models'?"),
        (["show", "models", "gtp2"], "no model named 'gtp2'", "did you mean 'gpt2'?"),
        (["show", "gpt2"], "show needs a kind and a name", "did you mean: llmctl show models gpt2"),
        (["show"], "missing argument 'KIND'", "see: llmctl show --help"),
        (["runs", "shwo"], "no such folder: shwo", "did you mean 'show'?"),
        (["completions", "bsh"], "no such shell 'bsh'", "did you mean 'bash' or 'zsh'?"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(words: list[str], message: str, hint: str) -> None:
    done = llmctl(*words)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().splitlines() == [f"error: {message}", f"  {hint}"]


def test_a_key_that_lies_deeper_is_named_with_its_path_and_not_among_all_others() -> None:
    done = llmctl("train", "--model", "lstm", "--data", "d", "--out", "o", "--set", "layers=3")
    lines = ["error: layers: unknown key; did you mean 'model.layers'?", "no such file or folder: d"]
    assert done.stderr.decode().splitlines() == lines


def test_all_config_faults_come_at_once() -> None:
    done = llmctl("train", "--model", "gtp2", "--set", "model.layrs=3", "--set", "optimizer.lr=-1")
    text = done.stderr.decode()
    assert done.returncode == 2
    assert "model.layrs: unknown key; did you mean 'layers'?" in text
    assert "optimizer.lr: must be greater than 0.0, not -1" in text
    assert "no model named 'gtp2'; did you mean 'gpt2'?" in text
    assert "data: is required; prepared folder" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "schema", "kind"),
    [
        (["trian", "--json"], "llmctl.trian/1", "usage"),
        (["train", "--modle", "x", "--json"], "llmctl.train/1", "usage"),
        (["train", "--json", "--set", "model.layrs=3"], "llmctl.train/1", "config"),
        (["show", "--json", "models", "gtp2"], "llmctl.show/1", "usage"),
        (["runs", "show", "nowhere", "--json"], "llmctl.runs/1", "usage"),
    ],
)
def test_with_json_an_error_is_exactly_one_document(words: list[str], schema: str, kind: str) -> None:
    done = llmctl(*words)
    document = json.loads(done.stdout)
    assert done.returncode == 2
    assert document["schema"] == schema
    assert document["status"] == "error"
    assert document["error"]["kind"] == kind
    assert document["error"]["exit_code"] == 2
    assert document["error"]["message"]
    assert set(document["error"]) == {"kind", "message", "hint", "exit_code"}


def test_a_traceback_only_with_debug() -> None:
    assert b"Traceback" not in llmctl("show", "models", "gtp2").stderr
    assert b"Traceback" in llmctl("show", "models", "gtp2", "--debug").stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["completions", "bash"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str], unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([*LLMCTL, *words], stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert done.returncode in (0, 141)
    assert done.stderr == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["list"], ["show", "models", "gpt2", "--json"], ["--version"]])
def test_a_full_disk_under_standard_output_is_no_success(words: list[str], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([*LLMCTL, *words], stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 4
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("error: ")
    assert "No space left on device" in lines[0]
    assert len([line for line in lines if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_has_its_code_and_no_traceback(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A recipe from a pipe nobody writes to: the process stands in the middle of its work until the signal."""
    pipe = tmp_path / "recipe.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen([*LLMCTL, "run", str(pipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not _opens(process.pid, pipe) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert out == b""
    assert b"Traceback" not in err


def _opens(pid: int, pipe: Path) -> bool:
    """Whether the process has begun to wait for the pipe: in `open`, so it shows in its system call."""
    wchan = Path(f"/proc/{pid}/wchan").read_text()
    return "fifo" in wchan or "wait_for_partner" in wchan


ODD = [
    {"LANG": "C", "LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    {"HOME": None},
    {"HOME": "/nonexistent"},
    {"TERM": "dumb"},
    {"COLUMNS": "20"},
    {"CI": "true"},
]


@pytest.mark.parametrize("env", ODD, ids=lambda env: ",".join(f"{name}={value}" for name, value in env.items()))
@pytest.mark.parametrize("words", [["list"], ["show", "models", "rnn"], ["show", "models", "rnn", "--json"]])
def test_the_same_bytes_in_any_surroundings(words: list[str], env: dict[str, str | None]) -> None:
    done = llmctl(*words, env=env)
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout == llmctl(*words).stdout
    assert "σ".encode() in done.stdout


@pytest.mark.parametrize("row", VERBS, ids=lambda row: row.name)
def test_help_of_every_verb_fits_twenty_columns(row: object) -> None:
    done = llmctl(VERBS[VERBS.index(row)].name, "--help", env={"COLUMNS": "20"})  # type: ignore[arg-type]
    assert done.returncode == 0
    assert b"--json" in done.stdout


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31mb\n\u202e 数据"
    done = llmctl("runs", str(odd))
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert "\u202e".encode() not in done.stderr
    assert "数据".encode() in done.stderr
