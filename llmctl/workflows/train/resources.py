"""What a run can use: processes, accelerators and free memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmctl.training import accelerators, machine
from llmctl.training.accelerators import Device
from llmctl.types import Precision
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.spec import TrainConfig


@dataclass(frozen=True, slots=True)
class Resources:
    """`processes`: on this machine; `world`: on all machines; `free`: bytes of memory for each of the processes that share
    it, the machine's, or those of one accelerator where each process has its own; None if unknown without torch."""

    processes: int
    world: int
    devices: tuple[Device, ...]
    free: int | None

    @property
    def sharing(self) -> int:
        """How many processes share the memory."""
        return -(-self.processes // len(self.devices)) if self.devices else self.processes


def resources(plan: TrainPlan, devices: Sequence[Device] | None = None) -> Resources:
    """What this run can use here; `devices` replaces the accelerators of this machine."""
    config = plan.config
    found = tuple(accelerators.found() if devices is None else devices)
    if plan.world is not None:
        here, world = plan.world.local_size, plan.world.size
    else:
        here = processes_here(config, found)
        world = here * config.machines
    free = accelerators.least_free(found) if found else machine.free_memory_bytes()
    return Resources(here, world, found, free)


def processes_here(config: TrainConfig, devices: Sequence[Device]) -> int:
    return max(1, len(devices)) if config.processes == "auto" else config.processes


def precision_of(config: TrainConfig, devices: Sequence[Device] | None = None) -> Precision:
    """The precision of the computation, as far as it is known without torch."""
    if config.precision == "auto":
        found = accelerators.found() if devices is None else devices
        has_bf16 = all(each.bf16 for each in found) if found else machine.has_bf16()
        return "bf16" if has_bf16 else "fp32"
    return "fp32" if config.precision == "fp32" else "bf16"
