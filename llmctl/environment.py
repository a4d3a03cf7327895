"""Environment variables that libraries read: set before they are imported, or removed where they would mislead them.

Values that the user sets for a library stay; those that a launcher left behind do not.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

from llmctl.errors import UsageError

SPINS: Final = "3000"
"""Spin iterations of an idle thread before it sleeps, about ten microseconds. Compared with sleeping at once, training is
1.35 times as fast on an idle machine and 0.93 times beside two busy processes (marian:tiny, two cores; spinning without
limit: 0.7)."""

_VERBOSITY: Final = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_LEVELS: Final = ("detail", "debug", "info", "warning", "error", "critical", "fatal", "notset")


def prepare(*, command: bool = False) -> None:
    """Let threads share the machine; no telemetry, no stack traces of torch on standard error. `command`: the process is a
    command of llmctl, not a program that imports it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Idle threads sleep, so that training is not starved by other programs, but not at once: waking a thread takes
        # longer than most operations of a small model. GOMP_SPINCOUNT is read by GNU OpenMP, which torch bundles.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # What Arrow frees goes back to the system: its own allocator keeps tens of megabytes in every process.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if command:
        # pydantic would read the metadata of every installed package to find plugins that watch it.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    # llmctl reports errors itself; torch would also log a stack trace, even while it waits for another machine.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # A value that a library cannot read would end a run when its plot is saved, or be printed as it is.
    for name, value in list(os.environ.items()):
        unreadable = name in _VERBOSITY and value.lower() not in _LEVELS
        if unreadable or (name == "SOURCE_DATE_EPOCH" and not value.isdecimal()):
            del os.environ[name]


_WORLD: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS: Final = (
    *("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *(
        "MASTER_ADDR",
        "MASTER_PORT",
        "PMI_RANK",
        "MPI_LOCALRANKID",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    *("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
_PREFIXES: Final = ("ACCELERATE_", "TORCHELASTIC_", "PARALLELISM_CONFIG_", "FSDP_", "MEGATRON_LM_")
_LAUNCHERS: Final = (
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate",
    "accelerate-launch",
    "deepspeed",
    "mpirun",
)


def forget_launchers() -> str | None:
    """Remove the variables by which launchers announce other processes and settings to torch and accelerate.

    llmctl starts its processes itself. With variables left over in a shell, torch would wait for processes that nobody
    started. Returns the note for the user, or None if there were none. Raises `UsageError` if a launcher that is running
    did start several processes of llmctl: each would train alone.
    """
    found = sorted(name for name in os.environ if name in (*_WORLD, *_RANKS) or name.startswith(_PREFIXES))
    size = next((value for name in _WORLD if (value := os.environ.get(name, "")).isdigit()), "1")
    if int(size) > 1 and (started_by := launcher()):
        raise UsageError(
            f"{started_by} started {size} processes of llmctl, each of which would train the whole model",
            hint=f"start it without {started_by}: llmctl train --processes {size}",
        )
    for name in found:
        del os.environ[name]
    if not found:
        return None
    named = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f"ignored from the environment: {named}; --processes and --machines start several processes"


def launcher() -> str | None:
    """The running launcher that started this process, directly or through a script."""
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1") and "SLURM_PROCID" in os.environ:
        return "srun"
    words = {os.path.basename(word) for line in _parents() for word in line[:4]}
    return next((name for name in _LAUNCHERS if name in words), None)


def asked_of_accelerate() -> int | None:
    """How many processes `accelerate launch` was asked for on this machine where it started this one alone, as it does without
    a GPU; None if it did not."""
    if "ACCELERATE_USE_CPU" not in os.environ or "MASTER_ADDR" not in os.environ or "RANK" in os.environ:
        return None
    for line in _parents():
        if any(os.path.basename(word).startswith("accelerate") for word in line[:4]):
            machines = _count(line, "machines") or 1
            return _count(line, "processes") if machines == 1 else None
    return None


def _count(line: list[str], what: str) -> int | None:
    """The value of accelerate's option `--num_processes` or `--num_machines`, which precedes the words of the program."""
    names = (f"--num_{what}", f"--num-{what}")
    words = [part for word in line for part in word.split("=", 1)]
    found = next((value for word, value in itertools.pairwise(words) if word in names), "")
    return int(found) if found.isdecimal() else None


def _parents() -> list[list[str]]:
    """The command lines of the processes above this one, the nearest first."""
    import psutil

    try:
        return [parent.cmdline() for parent in psutil.Process().parents()]
    except psutil.Error:
        return []
