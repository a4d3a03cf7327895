"""Trackers that are installed, offline: one record of a run, which a resumed run continues."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ("--model", "rnn", "--precision", "fp32", "--set=model.hidden=8", "--set=log_every=1", "--set=eval_every=100")


@pytest.fixture
def tracked(dates: Path, tmp_path: Path, llmctl: Run) -> Callable[[str], Path]:
    """A run of four steps that was resumed for two more, with a tracker; returns the tracker's folder."""

    def train(tracker: str) -> Path:
        run = tmp_path / "run"
        for words in (
            ("--data", dates, *SMALL, "--tracker", tracker, "--max-steps", "4", "--out", run),
            ("--resume", run, "--max-steps", "6"),
        ):
            done = llmctl("train", *words, "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["status"] == "ok", "no greeting of a package is among the results"
        return run / "trackers" / tracker

    return train


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder.parents[1] / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.filterwarnings("ignore")  # those of mlflow's own queries
def test_mlflow_has_one_run_with_all_steps(tracked: Callable[[str], Path]) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    folder = tracked("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.data.params["model.name"] == "rnn"
    assert {each.step: each.value for each in client.get_metric_history(run.info.run_id, "loss")} == pytest.approx(
        losses(folder)
    )


def test_wandb_continues_the_same_run_offline(tracked: Callable[[str], Path]) -> None:
    pytest.importorskip("wandb")
    folder = tracked("wandb")
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({each.name for each in files}) == 1, "both parts have the id of one run"
    rows = [row for file in files for row in history(file) if "loss" in row]
    assert {int(row["_step"]): float(row["loss"]) for row in rows} == pytest.approx(losses(folder))


def test_trackio_has_one_run_with_all_steps_and_its_settings(tracked: Callable[[str], Path]) -> None:
    pytest.importorskip("trackio")
    folder = tracked("trackio")
    with sqlite3.connect(folder / "llmctl.db") as database:
        rows = [(step, json.loads(row)) for step, row in database.execute("select step, metrics from metrics")]
        [(settings,)] = database.execute("select config from configs")
    assert {step: row["loss"] for step, row in rows if "loss" in row} == pytest.approx(losses(folder))
    assert json.loads(settings)["model.name"] == "rnn"


def history(file: Path) -> Iterator[dict[str, str]]:
    """The rows of an offline file: a log of LevelDB behind seven bytes, whose records are messages of protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, pieces = file.read_bytes(), 7, b""
    while place < len(content):
        if 32768 - place % 32768 < 7:  # no header fits at the end of a block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        pieces += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}


def test_a_tracker_that_fails_says_so_and_the_run_continues_without_it(
    dates: Path, tmp_path: Path, llmctl: Run
) -> None:
    (tmp_path / "wandb.py").write_text("raise ImportError('broken')\n")
    run, path = tmp_path / "run", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = ("--data", dates, *SMALL, "--tracker", "wandb", "--max-steps", "4", "--out", run)
    failed = llmctl("train", *words, env=os.environ | {"PYTHONPATH": path})
    assert failed.returncode == 4, failed.stderr
    assert "the tracker wandb failed: ImportError: broken" in failed.stderr
    assert llmctl("train", "--resume", run, "--set", "tracker=[]").returncode == 0
