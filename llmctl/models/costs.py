"""What a model costs: floating-point operations and the memory of its activations, by arithmetic alone.

Operations: two for every weight that a token passes (one multiplication, one addition), and 4·H for each pair of
positions that attend to each other in a layer; learning takes three times the forward pass, which the backward pass
costs twice again (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

Activations: what stays in memory from the forward pass for the backward pass, most of all. It is proportional to the
tokens read, the layers and the widths; the factors were fitted to measured peaks (`tests/benchmarks/memory.py`
measures again) and hold for the computation of `training/` on a processor. One with matrix units (AMX) was seen
to take up to 11 % more than one without; encoder-decoders and `bert` are fitted to the middle.

Letters: B examples, S positions of the source (or of the only sequence), U of the target, L layers, H width, I width
inside the MLP, E width of token vectors, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from llmctl.models.spec import Shape
from llmctl.types import Family

FORWARDS_PER_STEP: Final = 3
"""Forward passes that one step of learning costs."""


ENERGIES_AT_ONCE: Final = 1 << 23
"""Numbers of (target, source, width) that additive attention makes at once: it is done in parts of the target beyond."""


class BatchShape(NamedTuple):
    """What is read at once, padding included: B examples of S tokens, in an encoder-decoder with U tokens of target."""

    examples: int
    source: int
    target: int = 0


def forward_flops(
    family: Family,
    shape: Shape,
    parameters: int,
    vocabulary: int,
    batch_shape: BatchShape,
    *,
    predicted_fraction: float = 0.0,
) -> float:
    """Operations of reading once. `parameters`: all weights, tied ones counted once. `predicted_fraction`: the share of its
    places that an encoder has to say, 0 where it names labels."""
    b, s, u = batch_shape
    width = shape.hidden or 1
    table = vocabulary * (shape.embedding or width)
    positions = (shape.context or 0) * width * (2 if family == "encoder-decoder" else 1)
    stack = max(0, parameters - table - positions)
    pairs = 4 * width * (shape.layers or 1) if shape.heads else 0
    if family == "decoder":
        return b * s * (2 * (stack + table) + pairs * s)
    if family == "encoder":
        return b * s * (2 * (stack + predicted_fraction * table) + pairs * s)
    # Of a transformer's layer the decoder has one attention more; an LSTM that reads both ways is about half of all.
    mlp = 2 * width * (shape.inner or 0)
    reads = (4 * width**2 + mlp) / (12 * width**2 + 2 * mlp) if shape.heads else 0.5
    crossing = 4 * width * (shape.layers or 1) if shape.heads else 4 * width
    return (
        2 * b * (s * reads * stack + u * ((1 - reads) * stack + table))
        + pairs * b * (s * s + u * u)
        + crossing * b * s * u
    )


@dataclass(frozen=True, slots=True)
class ActivationFactors:
    """Bytes that a step holds at its peak beside weights, gradients and the optimizer's memory, by what they grow with."""

    hidden: float
    """for each token, layer and unit of H"""
    both_ways: float = 0.0
    """for each token of the source, layer and unit of H, more: of a recurrence that reads it both ways"""
    inner: float = 0.0
    """for each token, layer and unit of I"""
    token: float = 0.0
    """for each token and unit of H (of E in a recurrent model)"""
    logits: float = 0.0
    """for each token that something is said of and entry of the vocabulary, where the head is not fused with the loss"""
    scores: float = 0.0
    """for each head, layer and pair of positions, where attention is not fused"""
    bias: float = 0.0
    """for each head and pair of positions of the longer sequence, where a bias of positions is added to them"""
    energies: float = 0.0
    """for each pair of source and target position and unit of H, where additive attention holds them at once"""
    part: float = 0.0
    """the same, for those of one part, where it is done in parts"""


LIBRARIES_BYTES: Final = 440 << 20
"""What a process that trains holds before it has a model: Python, torch, transformers, and what ends a run."""

_FACTORS: Final[Mapping[str, tuple[ActivationFactors, ActivationFactors]]] = {
    # in bf16, in fp32
    "rnn": (ActivationFactors(hidden=14, token=22), ActivationFactors(hidden=18)),
    "lstm": (ActivationFactors(hidden=56, token=10), ActivationFactors(hidden=93)),
    "attention": (ActivationFactors(hidden=52, inner=4, token=25), ActivationFactors(hidden=45, inner=10)),
    "gpt2": (ActivationFactors(hidden=8, inner=20, token=170), ActivationFactors(hidden=59, inner=28)),
    "llama": (ActivationFactors(hidden=74, inner=4, token=154), ActivationFactors(hidden=5, inner=32, token=110)),
    "lstm-seq2seq": (
        ActivationFactors(hidden=56, both_ways=66, energies=16, part=12),
        ActivationFactors(hidden=58, both_ways=114, energies=18, part=30),
    ),
    "t5": (
        ActivationFactors(hidden=8, inner=14, token=83, scores=6.3, bias=20),
        ActivationFactors(hidden=8, inner=14, token=72, scores=9.5, bias=12),
    ),
    "marian": (ActivationFactors(hidden=28, inner=11, token=49), ActivationFactors(hidden=34, inner=13, token=34)),
    "bart": (ActivationFactors(hidden=30, inner=10, token=69), ActivationFactors(hidden=34, inner=12, token=74)),
    "lstm-classifier": (ActivationFactors(hidden=125), ActivationFactors(hidden=150)),
    "bert": (
        ActivationFactors(hidden=10, inner=12, token=95, logits=14),
        ActivationFactors(hidden=15, inner=15, token=85, logits=16),
    ),
}
_NEAREST: Final[Mapping[Family, tuple[str, str]]] = {
    "decoder": ("llama", "lstm"),
    "encoder-decoder": ("bart", "lstm-seq2seq"),
    "encoder": ("bert", "lstm-classifier"),
}
"""For an architecture that was not measured, the one of its family: with attention, and without."""


def _factors(name: str, family: Family, shape: Shape, precision: Literal["fp32", "bf16"]) -> ActivationFactors:
    with_attention, without = _NEAREST[family]
    own = name.removeprefix("llmctl-")
    bf16_factors, fp32_factors = _FACTORS.get(own) or _FACTORS[with_attention if shape.heads else without]
    return bf16_factors if precision == "bf16" else fp32_factors


def activation_bytes(
    name: str,
    family: Family,
    shape: Shape,
    vocabulary: int,
    batch_shape: BatchShape,
    precision: Literal["fp32", "bf16"],
    *,
    predicted_fraction: float = 0.0,
) -> float:
    """Bytes of activations of the architecture `name` (for one that is not known: of the nearest that is)."""
    factors = _factors(name, family, shape, precision)
    b, s, u = batch_shape
    width, layers = shape.hidden or 1, shape.layers or 1
    tokens = b * (s + u)
    total = tokens * layers * (factors.hidden * width + factors.inner * (shape.inner or 0))
    total += b * s * layers * factors.both_ways * width
    total += tokens * factors.token * (shape.embedding or width)
    if family == "encoder":
        total += factors.logits * round(predicted_fraction * b * s) * vocabulary
    heads = shape.heads or 0
    total += factors.scores * heads * layers * b * (s * s + u * u + s * u)
    total += factors.bias * heads * b * max(s * s, u * u)
    if shape.score == "additive":
        energies = b * s * u * width
        in_parts = energies > ENERGIES_AT_ONCE
        total += factors.part * max(ENERGIES_AT_ONCE, b * s * width) if in_parts else factors.energies * energies
    return total


def answering_bytes(family: Family, shape: Shape, vocabulary: int, answers: int, length: int) -> float:
    """Bytes of answering `answers` prompts at once in fp32, each `length` tokens with its answer: keys and values of
    every layer (of a recurrence its state), and the logits of one place."""
    width, layers = shape.hidden or 1, shape.layers or 1
    cached = 2 * 4 * width * layers * (length if shape.heads else 1)
    if family == "encoder":
        cached = 4 * width * length * 8
    return float(answers * (cached + 3 * 4 * vocabulary))
