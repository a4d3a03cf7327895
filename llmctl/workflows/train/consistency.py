"""Whether settings fit each other, the prepared data and the model's shape."""

from __future__ import annotations

from typing import Final

from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.models import families
from llmctl.models.spec import Shape
from llmctl.store.models import ModelFolder
from llmctl.store.prepared import Prepared
from llmctl.types import Family
from llmctl.workflows.train.spec import TrainConfig

MIN_DENOISING_BLOCK: Final = 8
"""Tokens of the shortest block in which some can be corrupted and enough are left to predict them."""


def check_blocks(
    config: TrainConfig, prepared: Prepared, family: Family, pretrained_folder: ModelFolder | None
) -> None:
    """Raise `ConfigError` for blocks too short for denoising, or longer than the context of pretrained weights."""
    block = prepared.manifest.block_size
    context = families.context_of(pretrained_folder.config) if pretrained_folder else None
    if block is not None and family != "decoder" and block < MIN_DENOISING_BLOCK:
        problem = f"the blocks of {config.data} have {block} tokens, too few for denoising"
        raise ConfigError([Fault("data", problem, f"preprocess with --set block_size={MIN_DENOISING_BLOCK} or more")])
    if block is not None and context is not None and block > context:
        problem = f"the blocks of {config.data} have {block} tokens, the context of {config.model.name} is {context}"
        raise ConfigError([Fault("data", problem, f"preprocess with --set block_size={context}")])


def check_counts(config: TrainConfig) -> None:
    faults: list[Fault] = []
    if config.micro_batch_size is not None and config.micro_batch_size > config.batch_size:
        problem = f"{config.micro_batch_size} is more than batch_size {config.batch_size}"
        faults.append(Fault("micro_batch_size", problem))
    if config.cpu_offload and config.parallel != "fsdp":
        faults.append(Fault("cpu_offload", "moves the parts of weights that fsdp makes", "add --parallel fsdp"))
    if config.machine_rank >= config.machines:
        faults.append(Fault("machine_rank", f"must be less than machines, {config.machines}"))
    if faults:
        raise ConfigError(faults)


def check_shape(config: TrainConfig, prepared: Prepared, shape: Shape) -> None:
    block = prepared.manifest.block_size
    faults: list[Fault] = []
    if shape.context is not None and block is not None and block > shape.context:
        faults.append(
            Fault(
                "model.context",
                f"the blocks of {config.data} have {block} tokens, the context of {config.model.name} is {shape.context}",
                f"--set model.context={block}, or preprocess with --set block_size={shape.context}",
            )
        )
    if shape.heads is not None and shape.hidden is not None and shape.hidden % shape.heads:
        faults.append(Fault("model.heads", f"hidden {shape.hidden} is not a multiple of heads {shape.heads}"))
    labels = prepared.manifest.labels
    if shape.head == "sigmoid" and len(labels) != 2:
        problem = f"sigmoid needs exactly two labels, {config.data} has {len(labels)}"
        faults.append(Fault("model.head", problem, "--set model.head=softmax"))
    if faults:
        raise ConfigError(faults)


def check_measurable(config: TrainConfig) -> None:
    """Raise `UsageError` for a run of several processes: steps in one process do not predict its speed."""
    if config.processes not in (1, "auto") or config.machines > 1:
        raise UsageError("--measure runs its steps in one process", hint="--set processes=1 --set machines=1")
