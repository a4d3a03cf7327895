"""One process of a run refuses to train: the others, which wait for it, end with its error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.test_parallel import by_slurm, free_port

TRAIN = ("--model", "rnn", "--precision", "fp32", "--set=model.hidden=8", "--max-steps", "2")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("started_by", ["srun", "hand"])
def test_the_others_end_with_the_error_of_the_first(started_by: str, dates: Path, tmp_path: Path) -> None:
    """Two machines without a shared folder; only on the first of them the output exists already."""
    port, started = str(free_port()), []
    for rank in (1, 0):
        out = tmp_path / str(rank) / "run"
        out.parent.mkdir()
        if rank == 0:
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        words = [sys.executable, "-m", "llmctl", "train", "--data", str(dates), *TRAIN, "--out", str(out)]
        world = by_slurm(rank, 2, port) if started_by == "srun" else {}
        if started_by == "hand":
            words += ["--machines", "2", "--machine-rank", str(rank), "--main-address", f"127.0.0.1:{port}"]
        started.append(subprocess.Popen(words, env=os.environ | world, stderr=subprocess.PIPE, text=True))
    errors = [each.communicate(timeout=300)[1] for each in started]
    assert [each.returncode for each in started] == [2, 2], errors
    for error in errors:
        assert f"the output {tmp_path / '0' / 'run'} exists" in error
        assert "Traceback" not in error
    assert not (tmp_path / "1" / "run").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistyped_folder_is_reported_without_torch_where_no_other_machine_is_there(rank: int, tmp_path: Path) -> None:
    """The error appeared after 23 seconds: torch was imported to wait for the others."""
    words = ["train", "--data", "nope", *TRAIN, "--out", "run", "--machines", "2", "--machine-rank", str(rank)]
    words += ["--main-address", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-X", "importtime", "-m", "llmctl", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: no such prepared folder: nope" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "llmctl.training.world" in imported
    assert not {"torch", "numpy"} & imported
