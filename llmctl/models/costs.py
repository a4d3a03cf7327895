"""The cost of a model, by arithmetic: floating-point operations and activation memory.

Operations: two per token for every weight it passes (one multiplication, one addition), and 4·H for each pair of
positions that attend to each other in a layer. A training step costs three forward passes; the backward pass costs two
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

Activations: mainly what the forward pass keeps for the backward pass. They are proportional to tokens, layers and
widths. The factors were fitted to measured peaks (`tests/benchmarks/memory.py` repeats the measurement) and hold for
`training/` on a CPU. CPUs with matrix units (AMX) took up to 11 % more than those without; the factors of
encoder-decoders and `bert` are fitted to the midpoint.

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
"""Cost of a training step in forward passes."""


ENERGIES_AT_ONCE: Final = 1 << 23
"""Maximum number of (target, source, width) values that additive attention computes at once; beyond it, the target is
split into chunks."""


class BatchShape(NamedTuple):
    """The shape of a batch, including padding: B examples of S tokens and, in an encoder-decoder, U target tokens."""

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
    """Floating-point operations of one forward pass.

    `parameters`: all weights, tied ones counted once. `predicted_fraction`: the fraction of positions that an encoder
    predicts; 0 for a classifier.
    """
    b, s, u = batch_shape
    width = shape.hidden or 1
    table = vocabulary * (shape.embedding or width)
    positions = (shape.context or 0) * width * (2 if family in ("encoder-decoder", "speech-seq2seq") else 1)
    stack = max(0, parameters - table - positions)
    pairs = 4 * width * (shape.layers or 1) if shape.heads else 0
    if family == "decoder":
        return b * s * (2 * (stack + table) + pairs * s)
    if family == "encoder":
        return b * s * (2 * (stack + predicted_fraction * table) + pairs * s)
    if family == "ctc":
        return b * s * (2 * parameters + pairs * s)  # the convolutions before the stride cost a little more
    # A transformer's decoder layer has one attention more; a bidirectional LSTM encoder is about half of the stack.
    mlp = 2 * width * (shape.inner or 0)
    encoder = (4 * width**2 + mlp) / (12 * width**2 + 2 * mlp) if shape.heads else 0.5
    crossing = 4 * width * (shape.layers or 1) if shape.heads else 4 * width
    return (
        2 * b * (s * encoder * stack + u * ((1 - encoder) * stack + table))
        + pairs * b * (s * s + u * u)
        + crossing * b * s * u
    )


@dataclass(frozen=True, slots=True)
class ActivationFactors:
    """Peak bytes of a step beyond weights, gradients and optimizer state, per unit of what they grow with."""

    hidden: float
    """per token, layer and unit of H"""
    bidirectional: float = 0.0
    """in addition, per source token, layer and unit of H, for a bidirectional recurrence"""
    inner: float = 0.0
    """per token, layer and unit of I"""
    token: float = 0.0
    """per token and unit of H (of E in a recurrent model)"""
    logits: float = 0.0
    """per predicted token and vocabulary entry, if the head is not fused with the loss"""
    scores: float = 0.0
    """per head, layer and pair of positions, if attention is not fused"""
    bias: float = 0.0
    """per head and pair of positions in the longer sequence, for a relative position bias"""
    energies: float = 0.0
    """per pair of source and target positions and unit of H, if additive attention computes them all at once"""
    chunk: float = 0.0
    """the same, per chunk, if additive attention is computed in chunks"""


LIBRARIES_BYTES: Final = 440 << 20
"""Memory of a training process without a model: Python, torch, transformers, and the work at the end of a run."""

_FACTORS: Final[Mapping[str, tuple[ActivationFactors, ActivationFactors]]] = {
    # in bf16, in fp32
    "rnn": (ActivationFactors(hidden=14, token=22), ActivationFactors(hidden=18)),
    "lstm": (ActivationFactors(hidden=56, token=10), ActivationFactors(hidden=93)),
    "attention": (ActivationFactors(hidden=52, inner=4, token=25), ActivationFactors(hidden=45, inner=10)),
    "gpt2": (ActivationFactors(hidden=27, inner=6.3, token=72), ActivationFactors(hidden=59, inner=28)),
    "llama": (ActivationFactors(hidden=74, inner=4, token=154), ActivationFactors(hidden=5, inner=32, token=110)),
    "lstm-seq2seq": (
        ActivationFactors(hidden=56, bidirectional=66, energies=16, chunk=12),
        ActivationFactors(hidden=58, bidirectional=114, energies=18, chunk=30),
    ),
    "t5": (
        ActivationFactors(hidden=8, inner=14, token=83, scores=6.3, bias=20),
        ActivationFactors(hidden=8, inner=14, token=72, scores=9.5, bias=12),
    ),
    "marian": (ActivationFactors(hidden=28, inner=11, token=49), ActivationFactors(hidden=34, inner=13, token=34)),
    "bart": (ActivationFactors(hidden=30, inner=10, token=69), ActivationFactors(hidden=34, inner=12, token=74)),
    "ctc": (ActivationFactors(hidden=125, token=60), ActivationFactors(hidden=150, token=60)),
    "whisper": (ActivationFactors(hidden=30, inner=10, token=69), ActivationFactors(hidden=34, inner=12, token=74)),
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
    "ctc": ("bert", "ctc"),
    "speech-seq2seq": ("whisper", "whisper"),
}
"""The stand-in for an architecture without measurements, by family: with attention, and without."""


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
    """Activation memory of the architecture `name`, in bytes (for an unknown one: that of the nearest known one)."""
    factors = _factors(name, family, shape, precision)
    b, s, u = batch_shape
    width, layers = shape.hidden or 1, shape.layers or 1
    tokens = b * (s + u)
    total = tokens * layers * (factors.hidden * width + factors.inner * (shape.inner or 0))
    total += b * s * layers * factors.bidirectional * width
    total += tokens * factors.token * (shape.embedding or width)
    if family == "encoder":
        total += factors.logits * round(predicted_fraction * b * s) * vocabulary
    heads = shape.heads or 0
    total += factors.scores * heads * layers * b * (s * s + u * u + s * u)
    total += factors.bias * heads * b * max(s * s, u * u)
    if shape.score == "additive":
        energies = b * s * u * width
        chunked = energies > ENERGIES_AT_ONCE
        total += factors.chunk * max(ENERGIES_AT_ONCE, b * s * width) if chunked else factors.energies * energies
    return total


def answering_bytes(family: Family, shape: Shape, vocabulary: int, answers: int, length: int) -> float:
    """Memory for generating `answers` answers at once in fp32, in bytes; `length`: tokens of prompt and answer.

    Counts keys and values of every layer (the state of a recurrence) and the logits at one position.
    """
    width, layers = shape.hidden or 1, shape.layers or 1
    cached = 2 * 4 * width * layers * (length if shape.heads else 1)
    if family == "encoder":
        cached = 4 * width * length * 8
    return float(answers * (cached + 3 * 4 * vocabulary))
