"""Settings of `train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import StrictBool, StrictFloat, StrictInt

from llmctl.config import Duration, Size, Spec, flag, key
from llmctl.models.spec import Adapter
from llmctl.training.spec import Optimizer, Schedule
from llmctl.workflows.settings import INSTRUCTION, BestBy, ModelSettings


class TrainConfig(Spec):
    """Learn from prepared data."""

    moved: ClassVar[Mapping[str, str]] = {"lr": "optimizer.lr"}
    renamed: ClassVar[Mapping[str, str]] = {"corruption": "noise_density"}

    data: Path = flag(..., "a prepared folder", panel="Main")
    model: ModelSettings = flag(
        ..., "NAME[:SIZE] for random weights, a folder for its own, hf:ID for the hub's", panel="Main"
    )
    out: Path = flag(..., "the run folder to make", panel="Main")
    adapter: Adapter | None = flag(None, "lora: learn low-rank matrices beside given weights", panel="Learning")
    epochs: StrictFloat | None = flag(
        None, "stop after so many passes; 3 when no budget is given", panel="Budget", gt=0
    )
    max_steps: Size | None = flag(None, "stop after so many optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "stop after so many tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "stop after so long: 90s, 55m", panel="Budget", gt=0)
    batch_size: StrictInt = flag(
        32, "records (blocks) of one optimizer step over all processes", panel="Learning", ge=1
    )
    micro_batch_size: StrictInt | None = key(
        None, "records of one forward pass; all of a process's when not given", ge=1
    )
    optimizer: Optimizer = key(Optimizer(), "how weights move")
    schedule: Schedule = key(Schedule(), "how the learning rate moves")
    clip_norm: StrictFloat = key(1.0, "largest norm of the gradient; 0 for no clipping", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = flag(
        "auto", "auto: bf16 autocast where the processor has it", panel="Learning"
    )
    best_by: BestBy | None = flag(
        None, "loss, or a metric of the task, also one of its scores: rougeL", panel="Validation"
    )
    best_by_limit: StrictInt = key(200, "validation records answered for it, where it compares answers", ge=1)
    patience: StrictInt | None = flag(
        None, "stop after so many evaluations without a better one", panel="Validation", ge=1
    )
    eval_every: Size | None = key(None, "steps between evaluations; a tenth of the run when not given", ge=1)
    save_every: Size | None = key(None, "steps between checkpoints; as eval_every when not given", ge=1)
    keep_checkpoints: StrictInt = key(2, "newest checkpoints kept, beside the best", ge=1)
    log_every: StrictInt = key(10, "steps between lines of metrics.jsonl", ge=1)
    max_length: Size | None = key(None, "cut records to so many tokens; the model's context when not given", ge=2)
    noise_density: StrictFloat | None = key(
        None,
        "share of a plain text that is taken away to be mended, by all but decoders; 0.15 when not given, 0.3 of models "
        "that say the whole text again (bart, marian, lstm-seq2seq)",
        gt=0,
        lt=1,
    )
    instruction: str | None = key(None, INSTRUCTION)
    compile: StrictBool = key(False, "torch.compile the model: slower to start, 3 to 27 % faster after")
    processes: StrictInt = flag(1, "processes on this machine", panel="Processes", ge=1)
    machines: StrictInt = flag(1, "machines of the run, this one included", panel="Processes", ge=1)
    machine_rank: StrictInt = flag(0, "which of them this one is, from 0", panel="Processes", ge=0)
    main_address: str = flag("127.0.0.1", "host[:port] of machine 0", panel="Processes")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
