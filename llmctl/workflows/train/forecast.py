"""Forecast what a run costs before it starts: operations, memory, and whether it fits in the memory of this machine.

Pure arithmetic (`models/costs.py`); imports nothing heavy. `measure.py` measures instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from llmctl.data.spec import PADDED_TO, SPAN_TOKENS
from llmctl.data.storing.lengths import lengths_of
from llmctl.models import costs, families
from llmctl.models.costs import BatchShape
from llmctl.models.spec import Shape
from llmctl.store.adapters import is_target, stack_layers
from llmctl.store.prepared import LengthStats
from llmctl.store.weights import shapes
from llmctl.training import machine
from llmctl.training.accelerators import Device
from llmctl.types import Family, Precision
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.resources import Resources, precision_of, resources
from llmctl.workflows.train.spec import TrainConfig

INSTRUCTION_TOKENS: Final = 24  # of an instruction, about
OPTIMIZER_BYTES: Final = {"adamw": 8, "adam": 8, "sgd": 4}
"""Bytes of optimizer state per weight."""
RESERVE: Final = 0.05  # share of the free memory that is left to other processes
GENERATED: Final = 32  # batch size of `generate`, its default


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory in bytes, by what uses it."""

    libraries: int
    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    """Training: activations kept for the backward pass, and logits. Generation: cache and logits."""

    @property
    def total(self) -> int:
        return self.libraries + self.weights + self.gradients + self.optimizer + self.activations

    def summary(self) -> str:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in asdict(self).items() if size)
        return f"{gib(self.total)} ({parts})"

    def to_dict(self) -> dict[str, int]:
        found = {f"{name}_bytes": size for name, size in asdict(self).items() if size}
        return {**found, "total_bytes": self.total}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast cost of a run."""

    parameters: int
    trainable_parameters: int
    batch_shape: BatchShape
    """Shape of the largest forward pass."""
    precision: Precision
    flops_per_token: float
    tokens_per_epoch: int
    steps_per_epoch: int
    epochs: float | None
    """None where only time limits the run."""
    memory: Memory
    generating: Memory
    resources: Resources

    @property
    def needed(self) -> int:
        """Bytes of the memory that processes share, the machine's or an accelerator's."""
        return self.memory.total * self.resources.sharing

    @property
    def fits(self) -> bool:
        free = self.resources.free
        return free is None or self.needed <= (1 - RESERVE) * free

    def summary(self) -> dict[str, Any]:
        """The same as readable lines."""
        budget = f"{self.epochs:.3g} epochs" if self.epochs is not None else "limited by time"
        flops = self.flops_per_token * self.tokens_per_epoch
        free, sharing, devices = self.resources.free, self.resources.sharing, self.resources.devices
        place = f" on each of {len(devices)} × {devices[0].name}" if devices else ""
        fits = "fits" if self.fits else "does not fit"
        return {
            "weights": f"{self.parameters:,}"
            + (f", {self.trainable_parameters:,} trainable" if self.trainable_parameters < self.parameters else ""),
            "operations": f"{_short(self.flops_per_token)}FLOP per token, {_short(flops)}FLOP per epoch",
            "epoch": f"{self.tokens_per_epoch:,} tokens in {self.steps_per_epoch:,} step{'s'[: self.steps_per_epoch != 1]}; {budget}",
            "largest batch": " x ".join(str(each) for each in self.batch_shape if each) + f" tokens, {self.precision}",
            "memory to train": self.memory.summary() + (f", {sharing} times" if sharing > 1 else ""),
            "memory to answer": self.generating.summary(),
            "memory free": f"{gib(free)}{place}, {RESERVE:.0%} of it reserved: {fits}" if free else f"unknown{place}",
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        epoch = self.flops_per_token * self.tokens_per_epoch
        return {
            "parameters": self.parameters,
            "learned_parameters": self.trainable_parameters,
            "precision": self.precision,
            "largest_batch": {name: size for name, size in self.batch_shape._asdict().items() if size},
            "flops_per_token": round(self.flops_per_token),
            "tokens_per_epoch": self.tokens_per_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": round(self.epochs, 3) if self.epochs is not None else None,
            "flops": round(epoch * self.epochs) if self.epochs is not None else None,
            "memory": self.memory.to_dict(),
            "generate_memory": self.generating.to_dict(),
            "processes": self.resources.processes,
            "needed_bytes": self.needed,
            "free_bytes": self.resources.free,
            "fits": self.fits,
        }


def forecast(plan: TrainPlan, devices: Sequence[Device] | None = None) -> Forecast:
    """The cost of this run: peak memory of a process and total operations. `devices` replaces the accelerators of this
    machine."""
    config = plan.config
    available = resources(plan, devices)
    manifest = plan.prepared.manifest
    shape, name, vocabulary, parameters = _model(plan)
    found = lengths_of(plan.prepared, "train")
    precision = precision_of(config, available.devices)
    batch_shape, examples = _largest(plan, name, shape, found, available.world)
    trainable = _trainable(plan, parameters)
    denoising = plan.denoising
    predicted_fraction = denoising.noise_density if denoising else 0.0
    tokens = _tokens(plan, found)
    typical = _typical(plan, found, batch_shape)
    operations = costs.FORWARDS_PER_STEP * costs.forward_flops(
        plan.family, shape, parameters, vocabulary, typical, predicted_fraction=predicted_fraction
    )
    counted = typical.source + typical.target
    if plan.task.modality == "audio":
        counted = max(1, round(found.loss_tokens / max(1, found.records)))
    per_token = operations / max(1, typical.examples * counted)
    steps = -(-examples // config.batch_size)
    return Forecast(
        parameters=parameters,
        trainable_parameters=trainable,
        batch_shape=batch_shape,
        precision=precision,
        flops_per_token=per_token,
        tokens_per_epoch=tokens,
        steps_per_epoch=steps,
        epochs=_epochs(plan.config, steps, tokens),
        memory=memory_of(
            plan.family,
            name,
            shape,
            vocabulary,
            parameters,
            batch_shape,
            precision=precision,
            trainable=trainable,
            optimizer=config.optimizer.name,
            predicted_fraction=predicted_fraction,
            parts=available.world if config.parallel == "fsdp" else 1,
            recomputed=config.activation_checkpointing,
        ),
        generating=Memory(
            libraries=costs.LIBRARIES_BYTES,
            weights=4 * parameters,
            activations=round(
                costs.answering_bytes(
                    plan.family, shape, vocabulary, GENERATED, manifest.block_size or batch_shape.source
                )
            ),
        ),
        resources=available,
    )


def memory_of(
    family: Family,
    name: str,
    shape: Shape,
    vocabulary: int,
    parameters: int,
    batch_shape: BatchShape,
    *,
    precision: Precision | None = None,
    trainable: int | None = None,
    optimizer: str = "adamw",
    predicted_fraction: float = 0.0,
    parts: int = 1,
    recomputed: bool = False,
) -> Memory:
    """Peak memory of training an architecture. `trainable`: how many of its weights are trained; default: all.
    `predicted_fraction`: share of an encoder's positions in the loss, 0 for classification. `parts`: processes that hold a
    part of each weight. `recomputed`: only the inputs of layers are kept for the backward pass, and what one layer needs."""
    precision = precision or ("bf16" if machine.has_bf16() else "fp32")
    trainable = parameters if trainable is None else trainable
    weights = 4 * parameters
    if precision == "bf16":
        # Autocast adds a bf16 copy of the weights; those frozen under an adapter are kept in bf16 only.
        weights += 2 * parameters if trainable == parameters else -2 * (parameters - trainable)
    kept = costs.activation_bytes(
        name, family, shape, vocabulary, batch_shape, precision, predicted_fraction=predicted_fraction
    )
    if recomputed and shape.layers and shape.hidden and shape.heads:
        tokens = batch_shape.examples * (batch_shape.source + batch_shape.target)
        kept = kept / shape.layers + 4 * tokens * shape.hidden * shape.layers
    return Memory(
        libraries=costs.LIBRARIES_BYTES,
        weights=weights // parts,
        gradients=4 * trainable // parts,
        optimizer=OPTIMIZER_BYTES[optimizer] * trainable // parts,
        activations=round(kept),
    )


def _model(plan: TrainPlan) -> tuple[Shape, str, int, int]:
    """Shape, architecture name, vocabulary size and number of weights, for random or pretrained weights."""
    manifest = plan.prepared.manifest
    if plan.architecture is not None and plan.shape is not None:
        size = manifest.tokenizer.vocab_size
        labels = len(manifest.labels) if plan.task.labelled else 0
        parameters = plan.architecture.parameters(plan.shape, size, labels)
        return plan.shape, plan.architecture.name, size, parameters
    assert plan.pretrained_folder is not None
    config = plan.pretrained_folder.config
    counts = [math.prod(each) for each in shapes(plan.pretrained_folder.path).values()]
    return _shape_of(config), str(config.get("model_type")), int(config.get("vocab_size") or 0), sum(counts)


_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"),
    "inner": ("intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim"),
    "embedding": ("embedding_size",),
}
"""The keys under which transformers' configs keep the fields of `Shape`."""


def _shape_of(config: Mapping[str, Any]) -> Shape:
    found: dict[str, Any] = {}
    for name, keys in _KEYS.items():
        value = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        if value:
            found[name] = value
    if context := families.context_of(config):
        found["context"] = context
    if "heads" in found and "inner" not in found and "hidden" in found:
        found["inner"] = 4 * found["hidden"]  # GPT-2 leaves it out
    if config.get("score") == "additive":
        found["score"] = "additive"  # lstm-seq2seq: takes much of its memory
    return Shape.model_validate(found)


def _largest(plan: TrainPlan, name: str, shape: Shape, found: LengthStats, world: int) -> tuple[BatchShape, int]:
    """Shape of the largest forward pass, and the number of examples in an epoch."""
    config = plan.config
    share = -(-config.batch_size // world)
    rows = min(config.micro_batch_size or share, share)
    block = plan.prepared.manifest.block_size
    context = min([each for each in (shape.context, config.max_length) if each], default=None)
    if block is not None:
        examples = max(1, -(-(found.tokens - 1) // block))
        size = min(block, context or block, found.tokens)
        return BatchShape(min(rows, examples), *_denoising_lengths(plan, size)), examples
    if plan.task.modality == "audio":
        return _heard(plan, found, rows, found.longest_seconds or 0.0, found.longest_target + 1), found.records
    source = (found.longest if plan.family == "decoder" else found.longest_prompt) + _beside(plan)
    target = found.longest_target if plan.family == "encoder-decoder" else 0
    limit = context or max(source, target) + PADDED_TO
    source, target = _padded(source), _padded(target)
    return BatchShape(
        min(rows, found.records) * _sequences(plan), min(source, limit), min(target, limit)
    ), found.records


def _sequences(plan: TrainPlan) -> int:
    return 2 if plan.task.pairs else 1  # one for each answer


def _heard(plan: TrainPlan, found: LengthStats, rows: int, seconds: float, tokens: int) -> BatchShape:
    """The batch of recordings of this length: output frames and, of an encoder-decoder, tokens."""
    folder = plan.pretrained_folder
    hearing = families.hearing_of(folder.config) if folder else families.hearing_for(plan.family)
    frames = round((hearing.max_seconds or 0.0 if hearing.padded else seconds) * 100)
    if plan.family == "ctc":
        return BatchShape(min(rows, found.records), max(1, frames // hearing.stride))
    return BatchShape(min(rows, found.records), frames // 2, _padded(tokens))


def _beside(plan: TrainPlan) -> int:
    """Input tokens besides the texts and their control tokens (`LengthStats`): the first token of an encoder, the
    instruction of a decoder that was not trained on llmctl's control tokens. A decoder reads its first token but not
    its last, so the two cancel out."""
    if plan.family != "decoder":
        return int(plan.family == "encoder")
    pretrained_folder = plan.pretrained_folder
    uses_control_tokens = pretrained_folder is None or (
        pretrained_folder.card is not None and not pretrained_folder.card.instruction
    )
    return 0 if uses_control_tokens else INSTRUCTION_TOKENS


def _padded(size: int) -> int:
    return -(-size // PADDED_TO) * PADDED_TO


def _denoising_lengths(plan: TrainPlan, size: int) -> tuple[int, int]:
    """Source and target tokens of a block (`data/examples/noising.py`). The target is the full text, or the spans cut out: a
    sentinel replaces each span in the source and precedes it in the target, which ends with one more sentinel and the
    end token."""
    denoising = plan.denoising
    if denoising is None or denoising.scheme == "masked":
        return size, 0
    cut = round(denoising.noise_density * size)
    sentinels = max(1, round(cut / SPAN_TOKENS))
    target_tokens = cut + sentinels + 2 if denoising.scheme == "spans" else size
    return _padded(min(size, size - cut + sentinels)), _padded(min(size, target_tokens))


def _average(plan: TrainPlan, found: LengthStats) -> tuple[float, float]:
    """Tokens of a record of average length, control tokens included: of the one sequence, or of source and target."""
    records = max(1, found.records)
    loss_tokens, marks = found.loss_tokens / records, found.marks / records
    prompt = found.tokens / records - loss_tokens
    if plan.family == "decoder":
        return prompt + loss_tokens + marks + _beside(plan), 0.0
    # The loss covers one text: a target with its end token, or a label, which is not an encoder's input.
    return prompt + marks - 1 + _beside(plan), loss_tokens + 1 if plan.family == "encoder-decoder" else 0.0


def _tokens(plan: TrainPlan, found: LengthStats) -> int:
    """Tokens read in an epoch; of recordings, those of their texts."""
    if plan.task.modality == "audio":
        return found.loss_tokens
    if plan.prepared.manifest.block_size is not None:
        return found.tokens
    return round(found.records * sum(_average(plan, found)) * _sequences(plan))


def _typical(plan: TrainPlan, found: LengthStats, largest: BatchShape) -> BatchShape:
    """A batch of one example of average length."""
    if plan.task.modality == "audio":
        records = max(1, found.records)
        return _heard(plan, found, 1, (found.seconds or 0.0) / records, round(found.loss_tokens / records) + 1)
    if plan.prepared.manifest.block_size is not None:
        return largest._replace(examples=1)
    source, target = (round(each) for each in _average(plan, found))
    return BatchShape(1, max(1, source), max(1, target) if plan.family == "encoder-decoder" else 0)


def _trainable(plan: TrainPlan, parameters: int) -> int:
    """Number of trainable weights: all, or an adapter's two matrices for each layer it adapts."""
    config = plan.config
    if config.adapter is None or plan.pretrained_folder is None:
        return parameters
    layers, wanted = stack_layers(shapes(plan.pretrained_folder.path)), config.adapter.targets
    chosen = [shape for name, shape in layers.items() if wanted is None or is_target(name, wanted)]
    return sum(config.adapter.rank * (shape[0] + shape[1]) for shape in chosen)


def _epochs(config: TrainConfig, steps_per_epoch: int, tokens_per_epoch: int) -> float | None:
    """Epochs that the budget allows; None where only time limits it."""
    limits = (
        config.epochs,
        None if config.max_steps is None else config.max_steps / steps_per_epoch,
        None if config.max_tokens is None else config.max_tokens / max(1, tokens_per_epoch),
    )
    return min((each for each in limits if each is not None), default=None)


def gib(size: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _short(number: float) -> str:
    """Three significant digits with an SI prefix: 6.9 M, 1.24 T."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
