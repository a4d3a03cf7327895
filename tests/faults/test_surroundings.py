"""Training in a notebook, in a shell that a launcher left variables in, without a home; its processes end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ["--model", "rnn", "--precision", "fp32", "--set=model.hidden=8", "--set=model.layers=1"]
LAUNCHER = {
    "a shell inside torchrun": "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29599",
    "no numbers": "WORLD_SIZE=y RANK=x",
    "an MPI shell": "PMI_SIZE=4 PMI_RANK=1 OMPI_COMM_WORLD_SIZE=4",
    "accelerate": "ACCELERATE_USE_DEEPSPEED=true ACCELERATE_TORCH_DEVICE=meta ACCELERATE_USE_FSDP=true",
}


@pytest.mark.parametrize("name", LAUNCHER)
def test_variables_that_a_launcher_left_are_ignored_with_a_note(
    name: str, dates: Path, tmp_path: Path, llmctl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    left = dict(each.split("=") for each in LAUNCHER[name].split())
    words = ["train", "--data", dates, *SMALL, "--max-steps", "1", "--out", tmp_path / "run"]
    done = llmctl(*words, env={**os.environ, **left}, timeout=120)
    assert done.returncode == 0, done.stderr
    [note] = [line for line in done.stderr.splitlines() if line.startswith("ignored from the environment: ")]
    assert all(each in note for each in left)


def test_llmctl_under_a_launcher_of_several_processes_is_refused(dates: Path, tmp_path: Path) -> None:
    """`torchrun` here is a program of that name that starts one of the processes."""
    launcher = tmp_path / "torchrun"
    words = [sys.executable, "-m", "llmctl", "train", "--data", str(dates), *SMALL, "--out", str(tmp_path / "run")]
    launcher.write_text(f"import os, subprocess, sys\nsys.exit(subprocess.run({words!r}).returncode)\n")
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    done = subprocess.run([sys.executable, str(launcher)], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "torchrun started 2 processes of llmctl" in done.stderr
    assert "--processes 2" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "backend", ["bogus", "module://matplotlib_inline.backend_inline", "module://not_installed.backend"]
)
def test_a_backend_of_matplotlib_that_cannot_be_used_fails_no_training(
    backend: str, dates: Path, tmp_path: Path, llmctl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Jupyter, Colab and Kaggle export theirs to every command. Nothing below HOME can be written here either."""
    surroundings = {"MPLBACKEND": backend, "HOME": "/proc", "MPLCONFIGDIR": "/proc/x", "XDG_CACHE_HOME": "/proc/x"}
    words = ["train", "--data", dates, *SMALL, "--max-steps", "1", "--out", tmp_path / "run", "--quiet"]
    done = llmctl(*words, env={**os.environ, **surroundings})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
    assert (tmp_path / "run/plots/loss.png").is_file()


@pytest.mark.slow
def test_variables_of_libraries_with_odd_values_fail_no_training_and_are_not_printed(
    dates: Path, tmp_path: Path, llmctl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    odd = {"SOURCE_DATE_EPOCH": "x", "TRANSFORMERS_VERBOSITY": "\x1b[2J", "HF_HUB_VERBOSITY": "\x1b[2J"}
    words = ["train", "--data", dates, *SMALL, "--max-steps", "1", "--out", tmp_path / "run"]
    done = llmctl(*words, env={**os.environ, **odd})
    assert (done.returncode, "\x1b" in done.stderr) == (0, False), done.stderr


def test_workers_end_with_a_parent_that_is_killed(dates: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    words = ["train", "--data", dates, *SMALL, "--max-steps", "100000", "--processes", "2", "--out", tmp_path / "run"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    parent = subprocess.Popen(
        [sys.executable, "-m", "llmctl", *map(str, words)], env=environment, stderr=subprocess.DEVNULL
    )
    metrics, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 180
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while (left := [each for each in children if Path(f"/proc/{each}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert [each.name for each in (tmp_path / "tmp").iterdir() if not each.name.startswith("torchinductor_")] == []


def test_a_disk_that_is_full_for_numpy_is_no_bug() -> None:
    import numpy as np

    from llmctl.errors import untranslated

    with pytest.raises(OSError, match="requested and") as caught:
        np.zeros(1_000_000).tofile("/dev/full")
    assert untranslated(caught.value).exit_code == 4
