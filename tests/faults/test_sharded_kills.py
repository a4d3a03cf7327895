"""SIGKILL of a run of two processes that hold parts of the model, at any moment and inside the save of a checkpoint: the last
whole checkpoint is used, and the run ends as if nothing had happened.

Three kills, two of them inside a save; with LLMCTL_KILLS=10 in the environment ten.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TRAIN = (
    *("train", "--data", "pd", "--model", "rnn", *kills.SMALL, "--set=model.hidden=64", "--batch-size", "8"),
    *("--max-steps", "12", "--set=save_every=1", "--set=eval_every=5", "--set=log_every=3"),
    *("--processes", "2", "--parallel", "fsdp", "--out", "run"),
)
KILLS = int(os.environ.get("LLMCTL_KILLS", "3"))


def wait_for_a_save(run: Path, process: subprocess.Popen[bytes], *, saves: int) -> bool:
    """Wait until the run has begun that many checkpoints; False if it ended before."""
    seen: set[str] = set()
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen |= {each.name for each in os.scandir(run / "checkpoints") if each.name.startswith(".llmctl-step-")}
        if len(seen) >= saves:
            return True
        time.sleep(0.0002)
    return False


def newest_whole(run: Path) -> str | None:
    found = (run / "checkpoints").glob("step-*/MANIFEST.json")
    return max((each.parent.name for each in found), default=None)


def test_a_sharded_run_survives_kills_inside_its_saves(dates: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(dates, source / "pd")
    whole = kills.Place(tmp_path / "whole", source)
    assert whole.start(TRAIN).wait(timeout=600) == 0, whole.log
    wanted = kills.trained(whole.folder / "run")

    chance = random.Random(0)
    place, told = kills.Place(tmp_path / "killed-0", source), 0
    lines, inside, resumes = list[str](), 0, 0
    for number in range(KILLS + 1):
        run = place.folder / "run"
        kept = newest_whole(run)
        process = place.start(("train", "--resume", "run") if run.exists() else TRAIN)
        if number == KILLS:
            assert process.wait(timeout=600) == 0, place.log
        elif number % 3 == 2:
            time.sleep(chance.uniform(1, 9))
            process.send_signal(signal.SIGKILL)
        elif wait_for_a_save(run, process, saves=chance.randint(1, 4)):
            time.sleep(chance.choice((0, 0.002, 0.005, 0.01)))
            process.send_signal(signal.SIGKILL)
        code = process.wait(timeout=60)
        place.check_no_orphans()
        left = list((run / "checkpoints").glob(".llmctl-step-*"))
        inside += bool(left)
        said = place.log[told:]
        told += len(said)
        lines.append(f"exit {code}, from {kept}, to {newest_whole(run)}, left {[each.name for each in left]}")
        if (resumed := re.findall(r"resumed from (step-\d+)", said)) or code == 0:
            resumes += bool(resumed)
            assert resumed == ([kept] if kept else []), "\n".join([*lines, place.log])
        if code == 0:
            assert kills.trained(run) == wanted, "\n".join([*lines, "another outcome"])
            assert not list(place.folder.rglob(".llmctl-*")), lines
            place, told = kills.Place(tmp_path / f"killed-{number + 1}", source), 0
    assert inside, "\n".join(["no kill fell inside a save", *lines])
    assert resumes, lines
