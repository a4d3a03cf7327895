"""What an architecture is: its family, sizes, settings and number of weights. The built-in ones are in `architectures.py`.

A setting has the same meaning in every architecture: `layers`, `hidden` (width of the state or residual stream),
`heads`, `context` (longest sequence in tokens), `embedding` (width of the token vectors, if it differs from `hidden`),
`inner` (width inside the MLP), `dropout`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import StrictBool, StrictFloat, StrictInt

from llmctl.config import Spec, key
from llmctl.errors import ConfigError, Fault

if TYPE_CHECKING:
    from llmctl.models.counts import Count
    from llmctl.types import Family

HUB: Final = "hf:"
"""The prefix of references to models on the Hugging Face hub."""
SERVER: Final = "openai:"
"""The prefix of references to models behind a server: `openai:NAME@URL`."""


class Vocabulary(NamedTuple):
    """What an architecture needs to know about a tokenizer: its size and the ids of its control tokens."""

    size: int
    pad: int
    bos: int
    eos: int


class Shape(Spec):
    """The settings of an architecture. None: the architecture does not have the setting, or derives it."""

    layers: StrictInt | None = key(None, "number of layers (in encoder and decoder each)", ge=1)
    hidden: StrictInt | None = key(None, "width of the hidden state", ge=1)
    heads: StrictInt | None = key(None, "number of attention heads", ge=1)
    context: StrictInt | None = key(None, "longest sequence in tokens", ge=2)
    embedding: StrictInt | None = key(None, "width of the token vectors; default: hidden", ge=1)
    inner: StrictInt | None = key(None, "width inside the MLP", ge=1)
    dropout: StrictFloat | None = key(None, "fraction of activations dropped in training", ge=0, lt=1)
    activation: Literal["tanh", "sigmoid"] | None = key(None, "activation function of the recurrence")
    score: Literal["additive", "dot"] | None = key(None, "attention score: additive (Bahdanau) or dot product")
    bidirectional: StrictBool | None = key(None, "read the text in both directions")
    pooling: Literal["max", "last"] | None = key(
        None, "input of the classifier: the maximum of each feature, or the last state"
    )
    head: Literal["softmax", "sigmoid"] | None = key(
        None, "softmax: one output per label; sigmoid: one output for two labels"
    )

    def explicit(self) -> dict[str, Any]:
        """The settings that are set."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Adapter(Spec):
    """A low-rank adapter, trained instead of the pretrained weights, which stay frozen."""

    shorthand: ClassVar[str | None] = "name"
    name: Literal["lora"] = key("lora", "low-rank adaptation of linear layers (Hu et al. 2021)")
    rank: StrictInt = key(16, "rank of the matrices", ge=1)
    alpha: StrictFloat | None = key(
        None, "scaling: the product of the matrices is multiplied by alpha / rank; default: twice the rank", gt=0
    )
    dropout: StrictFloat = key(0.0, "fraction of adapter inputs dropped in training", ge=0, lt=1)
    targets: tuple[str, ...] | None = key(
        None, "name endings of the adapted linear layers: [q_proj, v_proj]; default: all in the stack", min_length=1
    )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One architecture. `sizes["nano"]` sets every setting that the architecture has.

    `implementation` is `module:function`, called as `build(shape, vocabulary, labels)`; it returns a
    `PreTrainedModel` with fresh random weights (from torch's current seed).
    """

    name: str
    family: Family
    summary: str
    reference: str
    sizes: Mapping[str, Shape]
    implementation: str
    weights: Count
    learning_rate: float = 1e-3
    """Default peak learning rate at the size nano."""
    head_multiple: int = 1
    """The width of a head must be a multiple of this: rotary positions rotate pairs."""
    ungated: bool = False
    """Whether its state has no gates, so that gradients vanish within about ten tokens (Bengio, Simard and Frasconi
    1994, Learning Long-Term Dependencies with Gradient Descent is Difficult)."""
    labels_only: bool = False
    """Whether it is only a classifier: it has no head over the vocabulary to pre-train on plain text."""

    default_size: ClassVar[str] = "nano"

    def settings(self) -> tuple[str, ...]:
        """The names of the settings that this architecture has."""
        return tuple(self.sizes[self.default_size].explicit())

    def shape(self, size: str, overrides: Shape) -> Shape:
        """The shape of a size with overrides. Raises `ConfigError` if `hidden` cannot be split evenly into heads."""
        shape = Shape.model_validate(self.sizes[size].explicit() | overrides.explicit())
        if shape.heads and shape.hidden and shape.hidden % (shape.heads * self.head_multiple):
            widths = "" if self.head_multiple == 1 else f" whose width is a multiple of {self.head_multiple}"
            raise ConfigError(
                [Fault("model.heads", f"hidden ({shape.hidden}) cannot be split into {shape.heads} heads{widths}")]
            )
        return shape

    def learning_rate_for(self, shape: Shape) -> float:
        """Default peak learning rate: that of nano, scaled by the inverse square root of the width."""
        return float(self.learning_rate * ((self.sizes[self.default_size].hidden or 1) / (shape.hidden or 1)) ** 0.5)

    def parameters(self, shape: Shape, vocabulary_size: int, labels: int = 2) -> int:
        """Number of weights, computed without building the model."""
        return self.weights(shape, vocabulary_size, labels)

    def build(self, shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> Any:
        """Build a model of this shape with random weights."""
        module, _, attribute = self.implementation.partition(":")
        return getattr(importlib.import_module(module), attribute)(shape, vocabulary, labels)
