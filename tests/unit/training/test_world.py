"""Who started this process: variables of SLURM, torchrun and Kubernetes; accelerators as nvidia-smi describes them."""

from __future__ import annotations

import pytest

from llmctl.training import accelerators, world
from llmctl.training.accelerators import Device

STEP = {
    "SLURM_JOB_ID": "70123",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),1",
    "SLURM_JOB_NODELIST": "gpu[03-04,9],login",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_step_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    found = world.find()
    assert found is not None
    assert (found.rank, found.size, found.local_rank, found.local_size, found.machines) == (5, 7, 2, 3, 3)
    assert found.machine_rank == 1
    assert found.address == "gpu03"
    assert 15000 <= found.port < 30000


def test_a_batch_script_without_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_PROCID", "0")
    for name in ("SLURM_STEP_ID", "SLURM_STEP_TASKS_PER_NODE"):
        monkeypatch.delenv(name)
    assert world.find() is None


def test_one_process_in_each_container(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = world.find()
    assert found is not None
    assert (found.launcher, found.machine_rank, found.machines, found.local_size) == ("Kubernetes", 1, 4, 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],login", "gpu03"), ("a,b", "a"), ("n[7]", "n7"), ("x-[1-2]-y", "x-1-y"), ("one", "one"), ("", "")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert world.first_node(nodes) == first


def test_visible_accelerators() -> None:
    table = "0, GPU-aa, NVIDIA A100, 40000, 8.0\n1, GPU-bb, Tesla V100, 16000, 7.0\n"
    both = accelerators.described(table, {})
    assert both == (Device("NVIDIA A100", 40000 << 20, True), Device("Tesla V100", 16000 << 20, False))
    assert accelerators.least_free(both) == 16000 << 20
    assert accelerators.described(table, {"CUDA_VISIBLE_DEVICES": "GPU-bb"}) == both[1:]
    assert accelerators.described(table, {"CUDA_VISIBLE_DEVICES": ""}) == ()
