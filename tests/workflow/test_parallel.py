"""Several processes: the same steps as one, whoever started them; checkpoints in parts; worlds of other launchers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmctl.models import pretrained
from tests.workflow import spread

TRAIN = ("--model", "lstm-seq2seq", "--precision", "fp32", "--set=model.hidden=16", "--set=model.embedding=16")
STEPS = (
    "--set=batch_size=15",
    "--set=micro_batch_size=4",
    "--set=max_steps=8",
    "--set=log_every=1",
    "--set=eval_every=4",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def together(
    words: list[str], size: int = 2, environments: Any = None, timeout: int = 300
) -> list[tuple[int, str, str]]:
    """Start `size` processes that find each other by their variables; returns exit code and output of each."""
    port = str(free_port())
    usual = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = []
    for rank in range(size):
        own = environments(rank, size, port) if environments else by_rank(rank, size, port)
        started.append(
            subprocess.Popen(words, env={**usual, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [each.communicate(timeout=timeout) for each in started]
    return [(each.returncode, *output) for each, output in zip(started, outputs, strict=True)]


def by_rank(rank: int, size: int, port: str) -> dict[str, str]:
    local = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **local}


def by_slurm(rank: int, size: int, port: str) -> dict[str, str]:
    step = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "localhost"}
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": str(size),
        "SLURM_LOCALID": str(rank),
        "MASTER_PORT": port,
        **step,
    }


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders to start from."""
    place = tmp_path_factory.mktemp("given")
    for name in spread.GIVEN:
        if "+" not in name:
            pretrained.save(spread.build(name)[0], place / name)
    return place


@pytest.fixture(scope="module")
def two(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes saw, for every architecture."""
    file = tmp_path_factory.mktemp("spread") / "seen.json"
    found = together([sys.executable, "-m", "tests.workflow.spread", str(file), str(folders)])
    assert [code for code, *_ in found] == [0, 0], found
    seen: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return seen


@pytest.mark.timeout(600)
def test_two_processes_make_the_steps_of_one_for_every_architecture(two: dict[str, Any]) -> None:
    for name in spread.NAMES:
        one = spread.train(name, "one")
        for kind in ("ddp", "fsdp"):
            seen = two[f"{kind} {name}"]
            assert seen["tokens"] == one["tokens"], (kind, name)
            assert seen["loss"] == pytest.approx(one["loss"], rel=1e-6), (kind, name)
            assert seen["norm"] == pytest.approx(one["norm"], rel=5e-6), (kind, name)
            assert seen["validation"] == pytest.approx(one["validation"], rel=1e-6), (kind, name)
        assert two[f"fsdp {name}"]["whole"] == [], "each process holds a part of every weight that is trained"


@pytest.mark.timeout(600)
def test_checkpointing_and_offload_make_the_same_steps(two: dict[str, Any]) -> None:
    one = spread.train("gpt2", "one")
    for way in spread.WAYS:
        assert two[way]["loss"] == pytest.approx(one["loss"], rel=1e-5), way
        assert two[way]["validation"] == pytest.approx(one["validation"], rel=1e-5), way


@pytest.mark.timeout(600)
def test_bfloat16_rounds_no_worse_than_one_sum_of_all_gradients_did(two: dict[str, Any]) -> None:
    """The gap to one process: the mean relative difference of the losses of all steps and architectures."""
    gaps: dict[str, list[float]] = {"flat": [], "ddp": [], "fsdp": []}
    for name in spread.BF16:
        one = spread.train(name, "one", "bf16")["loss"]
        for kind, found in gaps.items():
            found += [abs(a - b) / b for a, b in zip(two[f"{kind} bf16 {name}"]["loss"], one, strict=True)]
    before, ddp, fsdp = (statistics.mean(each) for each in gaps.values())
    assert 0 < ddp <= 3 * before, gaps
    assert 0 < fsdp <= 3 * before, gaps


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", spread.GIVEN)
def test_given_weights_are_read_by_parts_and_learn_the_same(name: str, two: dict[str, Any], folders: Path) -> None:
    folder = folders / name.partition("+")[0]
    model, _ = spread.given(name, folder, empty=True)
    assert {own for own, each in model.named_parameters() if not each.is_meta} == {
        own for own, _ in model.named_parameters() if "lora_" in own
    }, "no process holds a weight of the folder before it reads its part"
    one, seen = spread.train(name, "one", folder=folder), two[f"given {name}"]
    assert seen["tokens"] == one["tokens"]
    assert seen["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert seen["norm"] == pytest.approx(one["norm"], rel=5e-6)
    assert seen["validation"] == pytest.approx(one["validation"], rel=1e-6)


@pytest.mark.timeout(600)
def test_a_sharded_run_is_resumed_by_one_and_by_three_and_a_damaged_part_is_found(
    dates: Path, tmp_path: Path, llmctl: Any
) -> None:
    words = ["train", "--data", str(dates), *TRAIN, *STEPS]
    run = tmp_path / "run"
    done = llmctl(*words, "--processes", "2", "--parallel", "fsdp", "--out", run, "--quiet")
    assert done.returncode == 0, done.stderr
    kept = run / "checkpoints/step-00000004"
    assert len(list(kept.glob("shard-*.safetensors"))) == 2
    assert set(json.loads((kept / "MANIFEST.json").read_text())["sha256"]) == {
        each.name for each in kept.iterdir() if each.name != "MANIFEST.json"
    }
    from safetensors import safe_open

    with safe_open(run / "model/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    expected = [row["loss"] for row in rows(run) if "loss" in row]
    for processes in ("1", "3"):
        copy = tmp_path / f"by-{processes}"
        shutil.copytree(run, copy)
        shard = copy / "checkpoints/step-00000008/shard-00002-model-00001-of-00001.safetensors"
        flip_a_bit(shard)
        again = ("--processes", processes, "--parallel", "fsdp" if processes == "3" else "ddp")
        done = llmctl("train", "--resume", copy, *again)
        assert done.returncode == 0, done.stderr
        assert f"{shard.name} has changed since it was written" in done.stderr
        assert "resumed from step-00000004" in done.stderr
        assert [row["loss"] for row in rows(copy) if "loss" in row] == pytest.approx(expected, rel=1e-6)
    for each in run.glob("checkpoints/step-*/shard-00001-*"):
        flip_a_bit(each)
    done = llmctl("train", "--resume", run, "--max-steps", "9")
    assert done.returncode == 5
    assert f"no checkpoint in {run} is intact" in done.stderr


LAUNCHERS = {
    "torchrun": ("torchrun", "--standalone", "--nproc-per-node", "2"),
    "accelerate": ("accelerate", "launch", "--num_processes", "2"),
    "accelerate, as with GPUs": ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"),
}
"""Without a GPU `accelerate launch` starts a single process, whatever number it is asked for, unless --multi_gpu is given."""


@pytest.fixture(scope="module")
def own(dates: Path, tmp_path_factory: pytest.TempPathFactory, llmctl: Any) -> Path:
    """The run of two processes that llmctl starts itself."""
    run = tmp_path_factory.mktemp("own") / "run"
    done = llmctl("train", "--data", dates, *TRAIN, *STEPS, "--processes", "2", "--out", run, "--quiet")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", [*LAUNCHERS, "slurm"])
def test_processes_of_another_launcher_are_one_run(launcher: str, own: Path, dates: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["-m", "llmctl", "train", "--data", str(dates), *TRAIN, *STEPS, "--json", "--out", str(run)]
    if launcher in LAUNCHERS:
        program, *options = LAUNCHERS[launcher]
        port = [str(free_port())] if options[-1] == "--main_process_port" else []
        command = [str(Path(sys.executable).with_name(program)), *options, *port, *words]
        usual = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run(command, env=usual, capture_output=True, text=True, timeout=300)
        found = [(done.returncode, done.stdout, done.stderr)]
    else:
        found = together([sys.executable, *words], environments=by_slurm)
    assert [code for code, *_ in found] == [0] * len(found), found
    [document] = [json.loads(out) for _, out, _ in found if out]
    assert document["model"] == str(run / "model")
    assert document["steps"] == 8
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    assert (run / "model/model.safetensors").read_bytes() == (own / "model/model.safetensors").read_bytes()
    assert [row["loss"] for row in rows(run) if "loss" in row] == [row["loss"] for row in rows(own) if "loss" in row]


def test_settings_that_contradict_the_world_are_refused(dates: Path, tmp_path: Path, llmctl: Any) -> None:
    world = by_slurm(0, 2, "1")
    words = ("train", "--data", dates, *TRAIN, "--out", tmp_path / "run")
    done = llmctl(*words, "--processes", "3", env={**os.environ, **world})
    assert done.returncode == 2
    assert "--processes 3, but srun started 2 processes" in done.stderr
    done = llmctl(*words, env={**os.environ, **world, "ACCELERATE_USE_FSDP": "true"})
    assert done.returncode == 2
    assert "ACCELERATE_USE_FSDP=true" in done.stderr
    accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes=2", "-m", "llmctl"]
    asked = subprocess.run([*accelerate, *map(str, words), "--processes", "3"], capture_output=True, text=True)
    assert asked.returncode != 0
    assert "--processes 3, but accelerate was asked for 2 processes" in asked.stderr
    assert not (tmp_path / "run").exists()
