"""The processes that another launcher started as one run: which of them this is, and where they meet. Imports no torch.

torchrun, `accelerate launch` and Kubernetes operators set RANK, WORLD_SIZE and MASTER_ADDR; srun sets SLURM_PROCID and
SLURM_NTASKS. Variables that a launcher left in a shell look the same, so the launcher itself is looked for, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from llmctl import environment
from llmctl.errors import UsageError

DEFAULT_PORT: Final = 29500
MEETING_SECONDS: Final = 900
"""How long processes wait for each other at the start."""
UNSURE_SECONDS: Final = 30
"""How long they wait where no launcher is seen."""
_CLUSTERS: Final = {"KUBERNETES_SERVICE_HOST": "Kubernetes", "AZUREML_RUN_ID": "Azure ML", "SM_HOSTS": "SageMaker"}
"""Variables of clusters that start one process in each container, and their names."""
_IGNORED: Final = {
    "ACCELERATE_USE_FSDP": "--parallel fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--parallel fsdp",
    "ACCELERATE_USE_MEGATRON_LM": "--parallel fsdp",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--parallel ddp or fsdp",
    "ACCELERATE_USE_XPU_FSDP": "--parallel fsdp",
    "ACCELERATE_MIXED_PRECISION": "--precision",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--set micro_batch_size=N",
    "ACCELERATE_DYNAMO_BACKEND": "--set compile=true",
}
"""Settings of `accelerate launch` that llmctl takes from its own settings."""
_OFF: Final = ("", "0", "1", "false", "no", "none")


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of a run that another launcher started."""

    launcher: str | None
    """None if no launcher was seen: the variables may be left over."""
    rank: int
    size: int
    local_rank: int
    local_size: int
    """Processes on this machine."""
    machine_rank: int
    address: str
    port: int

    @property
    def machines(self) -> int:
        return -(-self.size // self.local_size)

    @property
    def follows(self) -> bool:
        """Whether another process reports and writes for this one."""
        return self.rank > 0

    def announce(self) -> None:
        """Set the variables by which torch and accelerate find the others."""
        found = {
            "RANK": self.rank,
            "WORLD_SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_size,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
        }
        os.environ.update({name: str(value) for name, value in found.items()})


def find() -> World | None:
    """The world that this process belongs to, None if it was started alone."""
    variables = os.environ
    found = _by_rank(variables) or _by_slurm(variables)
    return found if found is not None and found.size > 1 else None


def _number(variables: Mapping[str, str], *names: str) -> int | None:
    return next((int(variables[name]) for name in names if variables.get(name, "").isdecimal()), None)


def _by_rank(variables: Mapping[str, str]) -> World | None:
    rank, size = _number(variables, "RANK"), _number(variables, "WORLD_SIZE")
    address = variables.get("MASTER_ADDR")
    if rank is None or size is None or not address or rank >= size:
        return None
    local_rank = _number(variables, "LOCAL_RANK") or 0
    local_size = _number(variables, "LOCAL_WORLD_SIZE")
    if local_size is None:  # an operator starts one process in each container
        local_size = 1 if "LOCAL_RANK" not in variables else size
    machine = _number(variables, "GROUP_RANK", "NODE_RANK")
    launcher = environment.launcher() or next((name for key, name in _CLUSTERS.items() if key in variables), None)
    return World(
        launcher,
        rank,
        size,
        local_rank,
        local_size,
        machine if machine is not None else rank // local_size,
        address,
        _number(variables, "MASTER_PORT") or DEFAULT_PORT,
    )


def _by_slurm(variables: Mapping[str, str]) -> World | None:
    """The tasks of a step of SLURM. A batch script that calls llmctl without srun is a single process, although its
    variables say how many tasks the job may have."""
    rank, size = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if rank is None or size is None or rank >= size:
        return None
    in_step = any(variables.get(name) for name in ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"))
    if not in_step and rank == 0 and "SLURM_JOB_ID" in variables:
        return None
    machine = _number(variables, "SLURM_NODEID") or 0
    machines = _number(variables, "SLURM_STEP_NUM_NODES", "SLURM_NNODES") or 1
    each = _tasks_by_machine(variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE", ""))
    job = _number(variables, "SLURM_JOB_ID") or 0
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    address = variables.get("MASTER_ADDR") or ("127.0.0.1" if machines == 1 else first_node(nodes))
    return World(
        "srun",
        rank,
        size,
        _number(variables, "SLURM_LOCALID") or 0,
        each[machine] if machine < len(each) and sum(each) == size else -(-size // machines),
        machine,
        address,
        # Jobs that share a machine need ports of their own.
        _number(variables, "MASTER_PORT") or 15000 + job % 15000,
    )


def _tasks_by_machine(text: str) -> list[int]:
    """`2(x3),1` -> 2, 2, 2, 1."""
    found: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        found += [int(tasks)] * int(times or 1)
    return found


def first_node(nodes: str) -> str:
    """The first machine of SLURM's list: `gpu[03-05,9],login` -> `gpu03`."""
    matched = re.match(r"([^,\[]*)(?:\[([^\],-]*)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in matched.groups()) if matched else ""


def joined(processes: int | Literal["auto"], machines: int, machine_rank: int) -> World | None:
    """The world that this process belongs to, `find`.

    Raises `UsageError` for settings that contradict it, and for settings of `accelerate launch` that would have no effect.
    """
    world = find()
    if world is None:
        wanted = environment.asked_of_accelerate()
        if wanted is not None and processes not in ("auto", wanted):
            raise UsageError(
                f"--processes {processes}, but accelerate was asked for {wanted} processes",
                hint="leave one of them out",
            )
        return None
    asked: list[tuple[str, int | None, int]] = [
        ("--processes", None if processes == "auto" else processes, world.local_size),
        ("--machines", machines if machines > 1 else None, world.machines),
        ("--machine-rank", machine_rank if machine_rank > 0 else None, world.machine_rank),
    ]
    for name, value, given in asked:
        if value is not None and value != given:
            raise UsageError(
                f"{name} {value}, but {world.launcher or 'the environment'} started {world.size} processes, "
                f"{world.local_size} on this machine, which is number {world.machine_rank} of {world.machines}",
                hint=f"leave {name} out",
            )
    for name, ours in _IGNORED.items():
        value_of = os.environ.get(name, "")
        if value_of.lower() not in _OFF:
            raise UsageError(
                f"{name}={value_of} is a setting of accelerate that llmctl does not read",
                hint=f"use llmctl's own setting, {ours}, and unset it",
            )
    return world


def refuse(verb: str) -> None:
    """Raise `UsageError` where several processes of a verb were started that would all do the same work."""
    world = find()
    if world is not None and world.launcher is not None:
        raise UsageError(
            f"{world.launcher} started {world.size} processes of llmctl {verb}, each of which would do all of the work",
            hint=f"start one: llmctl {verb}; only llmctl train joins a world of processes",
        )
