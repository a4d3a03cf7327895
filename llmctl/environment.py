"""What libraries read once from the environment of the process, set before they are imported; what the user set stays."""

from __future__ import annotations

import os
from typing import Final

SPINS: Final = "3000"
"""How often a thread looks for work before it sleeps, some ten microseconds: 1.35 times the speed of threads that sleep at
once on a quiet machine, 0.93 times beside two busy processes (marian:tiny, two cores; never sleeping: 0.7)."""


def prepare() -> None:
    """Threads that share the machine, no telemetry, no stacks on standard error."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait sleep, so that training beside other programs does not starve; but not at once: to wake one up
        # takes longer than most operations of a small model (GNU's OpenMP, which torch brings, reads the second).
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # What fails is raised as ours; torch would write a stack beside it, and one whenever a machine is not there yet.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
