"""Settings of `train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import PlainValidator, StrictBool, StrictFloat, StrictInt

from llmctl.config import Spec, flag, key
from llmctl.models.spec import Adapter
from llmctl.settings import INSTRUCTION, BestBy, ModelSettings
from llmctl.training.spec import Dpo, Optimizer, Schedule, TrackerName
from llmctl.values import LARGEST_SEED, Duration, Folder, Shown, Size

MOST_PROCESSES: Final = 1024
"""On one machine. The launcher prepares all of them before it starts the first."""


def _process_count(value: Any) -> Any:
    if value == "auto":
        return value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a number of processes; write 2, or auto")
    if value > MOST_PROCESSES:
        raise ValueError(f"must be at most {MOST_PROCESSES:,}, not {value:,}")
    return value


ProcessCount = Annotated[int | Literal["auto"], PlainValidator(_process_count), Shown(metavar="N|auto")]


BUDGETS: Final = ("epochs", "max_steps", "max_tokens", "max_time")
"""Settings that end a run; with several, whichever is used up first."""
DEFAULT_EPOCHS: Final = 3.0
"""The budget of a run for which none is set."""


class TrainConfig(Spec):
    """Train a model on prepared data."""

    moved: ClassVar[Mapping[str, str]] = {"lr": "optimizer.lr"}
    renamed: ClassVar[Mapping[str, str]] = {"corruption": "noise_density"}

    data: Folder = flag(..., "prepared folder", panel="Main")
    model: ModelSettings = flag(
        ..., "NAME[:SIZE] for random weights; a run, model folder or hf:ID for pretrained ones", panel="Main"
    )
    out: Folder = flag(..., "run folder to create", panel="Main")
    adapter: Adapter | None = flag(
        None, "lora: train low-rank matrices beside frozen pretrained weights", panel="Learning"
    )
    objective: Literal["likelihood", "dpo"] | None = flag(
        None,
        "what is minimised; default: dpo for preference pairs, else likelihood, the negative log-likelihood",
        panel="Learning",
    )
    dpo: Dpo = key(Dpo.defaults(), "preference tuning")
    epochs: StrictFloat | None = flag(
        None, "stop after this many passes over the data; default: 3 if no budget is set", panel="Budget", gt=0
    )
    max_steps: Size | None = flag(None, "stop after this many optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "stop after this many tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "stop after this long: 90s, 55m, 1h30m", panel="Budget", gt=0)
    batch_size: StrictInt = flag(
        32, "records (or blocks) per optimizer step, over all processes", panel="Learning", ge=1
    )
    micro_batch_size: StrictInt | None = key(
        None, "records per forward pass; default: all of a process's share of the batch", ge=1
    )
    optimizer: Optimizer = key(Optimizer.defaults(), "optimizer")
    schedule: Schedule = key(Schedule.defaults(), "learning rate schedule")
    clip_norm: StrictFloat = key(1.0, "clip the gradient to this norm; 0: no clipping", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = flag(
        "auto", "auto: bf16 autocast where the hardware supports it, else fp32", panel="Learning"
    )
    best_by: BestBy | None = flag(
        None,
        "choose the best checkpoint by loss, a metric of the task or one of its scores (rougeL); default: loss",
        panel="Validation",
    )
    best_by_limit: StrictInt = key(
        200, "validation records, evenly spread, to answer when best_by compares answers", ge=1
    )
    patience: StrictInt | None = flag(
        None, "stop after this many evaluations without improvement", panel="Validation", ge=1
    )
    eval_every: Size | None = key(None, "steps between evaluations; default: a tenth of the run", ge=1)
    save_every: Size | None = key(None, "steps between checkpoints; default: eval_every", ge=1)
    keep_checkpoints: StrictInt = key(2, "latest checkpoints to keep, in addition to the best", ge=1)
    log_every: StrictInt = key(10, "steps between rows of metrics.jsonl", ge=1)
    max_length: Size | None = key(None, "truncate records to this many tokens; default: the model's context", ge=2)
    long_answers: Literal["drop", "cut", "question"] = key(
        "drop",
        "records whose answer does not fit the context beside the question: leave out; cut the answer's end; or cut the "
        "question down to nothing, as version 0.1 did",
    )
    noise_density: StrictFloat | None = key(
        None,
        "share of the tokens of plain text to corrupt for denoising, all families but decoders; default: 0.15, or 0.3 "
        "for models that reconstruct the full text (bart, marian, lstm-seq2seq)",
        gt=0,
        lt=1,
    )
    instruction: str | None = key(None, INSTRUCTION)
    compile: StrictBool = key(
        False,
        "torch.compile the model: a minute or more to start; then 5 to 8 % faster for gpt2:tiny and llama:tiny in fp32 on "
        "one CPU core, no faster for lstm:nano",
    )
    tf32: StrictBool = key(
        False,
        "with precision fp32 on an NVIDIA GPU since Ampere: round the inputs of matrix products to TensorFloat-32 (10 bits of "
        "mantissa); much faster, and less exact",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = flag(
        "auto",
        "how processes share the model: ddp, all of it in each; fsdp, a part in each, for models too large for one device; "
        "auto: ddp",
        panel="Processes",
    )
    activation_checkpointing: StrictBool = key(
        False, "keep only the inputs of each layer and compute the rest again: less memory, about a third more time"
    )
    cpu_offload: StrictBool = key(
        False, "with parallel=fsdp: keep weights, gradients and optimizer state in the CPU's memory between their uses"
    )
    prefetch: StrictInt | None = key(
        None, "batches to build ahead of their step; default: 2 with an accelerator, 0 on a CPU", ge=0
    )
    processes: ProcessCount = flag(
        "auto", "processes on this machine; auto: one for each accelerator, one without", panel="Processes"
    )
    machines: StrictInt = flag(1, "machines in the run, including this one", panel="Processes", ge=1, le=65_536)
    machine_rank: StrictInt = flag(0, "rank of this machine, from 0", panel="Processes", ge=0)
    main_address: Annotated[str, Shown(metavar="HOST[:PORT]")] = flag(
        "127.0.0.1", "HOST[:PORT] of machine 0", panel="Processes"
    )
    tracker: tuple[TrackerName, ...] = flag(
        (), "also log to tensorboard, wandb, mlflow or trackio, in RUN/trackers; repeatable", panel="Run"
    )
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
