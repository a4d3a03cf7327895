"""`suggest`: rank the models for a task on this machine, with reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from llmctl import registry
from llmctl.errors import ConfigError, UsageError
from llmctl.models import families
from llmctl.models.costs import BatchShape
from llmctl.models.spec import ModelSpec, Shape
from llmctl.store.prepared import Prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.training import machine
from llmctl.types import Family
from llmctl.workflows.inspect.parts import VOCABULARY
from llmctl.workflows.suggest.spec import SuggestConfig
from llmctl.workflows.train.checks import examine
from llmctl.workflows.train.forecast import RESERVE, Memory, forecast, gib, memory_of
from llmctl.workflows.train.spec import TrainConfig

TOKENS_PER_PARAMETER: Final = 20
"""Compute-optimal number of training tokens per parameter (Hoffmann et al. 2022, arXiv:2203.15556)."""
REPEATED_EPOCHS: Final = 4
"""Epochs over the same text that are nearly as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""
LITTLE_TEXT: Final = 5_000_000
"""Training tokens below which recurrent models rank above transformers of the same size. A judgement: an LSTM was better
on translation with 50,000 and 1.4 million tokens and on reviews with 42,000, but not on the sonnets."""
ASSUMED: Final = {True: 256, False: 64}
"""Assumed tokens per example without `--data`: blocks of packed tasks (True), records of other tasks (False)."""
BEST_FAMILY: Final[dict[Family, str]] = {
    "encoder": "encoders see the full text in both directions",
    "encoder-decoder": "separate stacks for source and answer",
    "speech-seq2seq": "pretrained folders of its kind exist",
    "ctc": "learns from minutes of speech",
    "decoder": "decoders continue text",
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model in one size, with its estimated cost."""

    model: str
    family: Family
    parameters: int
    memory: int
    fits: bool
    tokens_per_parameter: float | None
    flops_per_epoch: float | None
    reasons: tuple[str, ...]

    def to_dict(self, rank: int) -> dict[str, Any]:
        return {
            "rank": rank,
            "model": self.model,
            "family": self.family,
            "parameters": self.parameters,
            "memory_bytes": self.memory,
            "fits": self.fits,
            "tokens_per_parameter": _rounded(self.tokens_per_parameter),
            "flops_per_epoch": None if self.flops_per_epoch is None else round(self.flops_per_epoch),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class SuggestPlan:
    """The task, and the data if any is given."""

    config: SuggestConfig
    task: Task
    prepared: Prepared | None


def preflight(config: SuggestConfig) -> SuggestPlan:
    """Raise `UsageError` if neither a task nor prepared data is given, or if they differ."""
    prepared = open_prepared(config.data) if config.data else None
    if prepared is not None and config.task not in (None, prepared.manifest.task):
        raise UsageError(f"{config.data} was prepared for {prepared.manifest.task}, not for {config.task}")
    name = config.task or (prepared.manifest.task if prepared else None)
    if name is None:
        raise UsageError("suggest needs --task or --data", hint="llmctl suggest --task translation --memory 8GiB")
    task: Task = registry.load("tasks", name)()
    if task.pairs:
        raise UsageError(
            f"{name} starts from a model that answers another task", hint="suggest for that one: --task chat"
        )
    return SuggestPlan(config, task, prepared)


def suggest(plan: SuggestPlan) -> dict[str, Any]:
    """Return the document of the verb."""
    config, task, prepared = plan.config, plan.task, plan.prepared
    memory = config.memory or machine.free_memory_bytes()
    tokens = prepared.manifest.tokens.get("train", 0) if prepared else None
    found = []
    for entry in registry.entries("models"):
        spec: ModelSpec = registry.load("models", entry.name)
        if spec.family in task.promptable and not (task.packed and spec.labels_only):
            found += [_ranked(spec, size, task, config, memory, tokens) for size in spec.sizes]
    found.sort(key=lambda each: each[0])
    return {
        "task": task.name,
        "data": str(config.data) if config.data else None,
        "memory_bytes": memory,
        "tokens": tokens,
        "suggestions": [each.to_dict(rank) for rank, (_, each) in enumerate(found, start=1)],
    }


def _ranked(
    spec: ModelSpec, size: str, task: Task, config: SuggestConfig, memory: int, tokens: int | None
) -> tuple[tuple[Any, ...], Suggestion]:
    """Return the sort key of a model and its suggestion.

    Models are ordered by: memory fit; the task's preference among families; gated before ungated recurrence; distance
    from the compute-optimal size in steps of a factor of four (smaller first without data); recurrent models first if
    there is little text.
    """
    made, flops = _cost(spec, size, config, task)
    parameters, needed = made
    fits = needed <= (1 - RESERVE) * memory
    place = task.promptable.index(spec.family)
    ratio = tokens / parameters if tokens else None
    away = abs(math.log2(ratio * REPEATED_EPOCHS / TOKENS_PER_PARAMETER)) if ratio else math.log2(parameters)
    recurrent = spec.sizes[size].heads is None
    little = tokens is not None and tokens < LITTLE_TEXT
    reasons = [
        f"fits in {gib(memory)}" if fits else f"does not fit in {gib(memory)}",
        *([BEST_FAMILY[spec.family]] if place == 0 and len(task.promptable) > 1 else []),
        *([_size_reason(ratio)] if ratio else []),
        *(["ungated recurrence: remembers about ten tokens"] if spec.ungated else []),
        *(["recurrent: sample-efficient on little text"] if recurrent and little and not spec.ungated else []),
    ]
    order = (not fits, place, spec.ungated, round(away / 2), recurrent is not little, away, spec.name)
    suggestion = Suggestion(f"{spec.name}:{size}", spec.family, parameters, needed, fits, ratio, flops, tuple(reasons))
    return order, suggestion


def _size_reason(ratio: float) -> str:
    """Compare the tokens per parameter with the compute-optimal number."""
    enough = TOKENS_PER_PARAMETER / REPEATED_EPOCHS
    if ratio >= 4 * enough:
        return f"{ratio:.3g} tokens per parameter: enough text for a larger model"
    if ratio >= enough / 4:
        return f"{ratio:.3g} tokens per parameter: size matches the text"
    return f"{ratio:.2g} tokens per parameter: likely to overfit (use dropout, --patience)"


def _cost(spec: ModelSpec, size: str, config: SuggestConfig, task: Task) -> tuple[tuple[int, int], float | None]:
    """Return ((parameters, peak memory in bytes), FLOPs per epoch); the FLOPs are None without `--data`."""
    if config.data is not None:
        settings = {"name": f"{spec.name}:{size}"}
        train = TrainConfig.model_validate(
            {"data": config.data, "model": settings, "out": "not-made", "batch_size": config.batch_size}
        )
        try:
            made = forecast(examine(train, offline=True))
        except ConfigError:
            # The blocks exceed the context of this size: extend the context to the block size.
            train = train.replace(model={**settings, "context": open_prepared(config.data).manifest.block_size})
            made = forecast(examine(train, offline=True))
        return (made.parameters, made.needed), made.flops_per_token * made.tokens_per_epoch
    shape: Shape = spec.sizes[size]
    parameters = spec.parameters(shape, VOCABULARY)
    length = ASSUMED[task.packed]
    batch_shape = BatchShape(
        config.batch_size, length, length if spec.family in ("encoder-decoder", "speech-seq2seq") else 0
    )
    denoising = families.denoising_of(spec.family, spec.name) if task.packed else None
    predicted_fraction = denoising.noise_density if denoising else 0.0
    found: Memory = memory_of(
        spec.family, spec.name, shape, VOCABULARY, parameters, batch_shape, predicted_fraction=predicted_fraction
    )
    return (parameters, found.total), None


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
