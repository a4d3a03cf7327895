"""Standard streams that cannot be used, terminals that close, and disks that are full."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.cli.render import ProgressReporter
from llmctl.errors import DiskFull, EnvironmentFault, decoded, encoded, naming
from llmctl.store import atomic
from llmctl.types import Event
from llmctl.workflows.serve.run import undisturbed

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ["--model", "rnn", "--precision", "fp32", "--set=model.hidden=8", "--set=model.layers=1"]


def in_shell(redirected: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "llmctl", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2</dev/null"])
def test_messages_that_cannot_be_written_fail_no_command(redirected: str, tmp_path: Path) -> None:
    """A script run with a closed standard error has it open for reading: its own file got the number."""
    assert in_shell(redirected, "lst", cwd=tmp_path).returncode == 2
    (tmp_path / "two.txt").write_text("a\nb\n")
    words = ["eval", "--predictions", "two.txt", "--references", "two.txt", "--metric", "bleu"]  # warns
    assert in_shell(redirected, *words, cwd=tmp_path).returncode == 0


def test_a_reader_of_messages_that_goes_away_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    words = ["eval", "--predictions", "two.txt", "--references", "two.txt", "--metric", "bleu", "--out", "scores"]
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "llmctl", *words]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "scores/scores.json").is_file()


def test_a_standard_input_that_cannot_be_read_is_a_closed_one(tmp_path: Path) -> None:
    done = in_shell("0>/dev/null", "preprocess", "-", "--task", "lm", "--out", "new", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("error: standard input is closed\n")


def begun(*words: str | Path, on_hang_up: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llmctl", *map(str, words)]
    return subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGHUP, on_hang_up), stderr=subprocess.DEVNULL
    )


def test_a_command_in_the_background_of_a_terminal_is_not_stopped(tmp_path: Path) -> None:
    """Whoever reads from a terminal in the background is stopped."""
    import pty

    command = f"cd {tmp_path}; {sys.executable} -m llmctl list metrics > found.txt 2>&1 &"
    shell, screen = pty.fork()
    if shell == 0:
        os.execvp("bash", ["bash", "--norc", "-i"])
    os.write(screen, f"{command}\n".encode())
    end = time.monotonic() + 60
    while not (tmp_path / "found.txt").is_file() or "bleu" not in (tmp_path / "found.txt").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(shell, signal.SIGKILL)
    os.waitpid(shell, 0)
    os.close(screen)


def test_a_training_whose_terminal_closes_is_saved(dates: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begun("train", "--data", dates, *SMALL, "--max-steps", "100000", "--set=log_every=1", "--out", run)
    try:
        metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) == 75
    finally:
        process.kill()
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("stopped", 75)
    assert list((run / "checkpoints").iterdir())


@pytest.mark.parametrize(("on_hang_up", "code"), [(signal.SIG_DFL, 143), (signal.SIG_IGN, 2)], ids=["", "nohup"])
def test_a_terminal_that_closes_ends_a_command_unless_nohup_started_it(
    on_hang_up: signal.Handlers, code: int, tmp_path: Path
) -> None:
    """A recipe from a pipe: the process stands in the middle of its work until there is one."""
    pipe = tmp_path / "recipe.yaml"
    os.mkfifo(pipe)
    process = begun("run", pipe, on_hang_up=on_hang_up)
    try:
        with pipe.open("w") as recipe:  # opens once the process reads
            process.send_signal(signal.SIGHUP)
            time.sleep(0.2)
            if code == 2:
                recipe.write("trian: {}\n")
        assert process.wait(timeout=60) == code
    finally:
        process.kill()


def in_small_files(kilobytes: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that may not write larger files, which fails as on a full disk does: while it writes."""
    command = f'ulimit -f {kilobytes}; exec "$0" -m llmctl "$@"'
    call = ["bash", "-c", command, sys.executable, *words]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_a_full_disk_is_said_with_the_output_that_did_not_fit(dates: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("the cat sat on the mat\n" * 500)
    words = ["eval", "--predictions", "long.txt", "--references", "long.txt", "--metric", "chrf"]
    done = in_small_files(4, *words, "--set=interval.resamples=0", "--out", "scores", cwd=tmp_path)
    assert done.returncode == 4
    assert "predictions.jsonl: File too large" in done.stderr
    words = ["train", "--data", str(dates), *SMALL, "--max-steps", "1", "--out", "run"]
    done = in_small_files(8, *words, cwd=tmp_path)
    assert done.returncode == 4
    assert "run/checkpoints/step-00000001: File too large" in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["long.txt", "run"]


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError("40 requested and 8 written"),
], ids=["Python", "safetensors", "NumPy"])  # fmt: skip
def test_what_libraries_say_of_a_full_disk_names_the_output(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught, atomic.atomic_folder(tmp_path / "out"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path / 'out'}: ")
    assert decoded(encoded(caught.value)).where == str(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), naming(tmp_path):
        raise ZeroDivisionError


def test_events_that_cannot_be_written_are_reported_once_and_a_server_keeps_answering(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = ProgressReporter(events="/dev/full")
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        reporter(Event("note", {"text": "first"}))
    reporter(Event("note", {"text": "second"}))  # not written, and shown
    reporter.close()
    emit = undisturbed(ProgressReporter(events="/dev/full"))
    emit(Event("note", {"text": "third"}))
    emit(Event("note", {"text": "fourth"}))
    lost = "warning: events are no longer written: /dev/full: No space left on device"
    assert capsys.readouterr().err.splitlines() == ["second", lost, "fourth"]


def test_a_pipe_where_a_file_is_needed_is_called_a_pipe(tmp_path: Path, llmctl: Run) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = llmctl("preprocess", pipe, "--task", "lm", "--out", "new")
    assert done.returncode == 2
    assert "is a pipe, and its name has no ending that says its format" in done.stderr
    assert "COMMAND | llmctl preprocess -" in done.stderr
    pair = ("--source-file", pipe, "--target-file", pipe)
    done = llmctl("preprocess", *pair, "--task", "translation", "--out", "new")
    assert (done.returncode, "aligned files are read more than once" in done.stderr) == (2, True)
