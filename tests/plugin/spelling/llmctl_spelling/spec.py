"""What the package adds, described: nothing here imports torch."""

from __future__ import annotations

from typing import Any

from pydantic import StrictBool

from llmctl.config import Spec, key
from llmctl.metrics.spec import MetricSpec
from llmctl.models.spec import ModelSpec, Shape


class LettersOptions(Spec):
    lowercase: StrictBool = key(False, "fold case")


LETTERS = MetricSpec(
    name="letters",
    scores=("letters",),
    scale="0-1",
    output_type="text",
    higher_is_better=True,
    options=LettersOptions,
    reference="share of letters in their right place",
    implementation="llmctl_spelling.letters:Letters",
)


def weights(shape: Any, vocabulary: int, labels: int) -> int:
    """Token vectors, one hidden layer over four of them, the head."""
    return vocabulary * shape.embedding + (4 * shape.embedding + 1) * shape.hidden + (shape.hidden + 1) * vocabulary


WINDOW = ModelSpec(
    name="window",
    family="decoder",
    summary="a hidden layer over the last four tokens",
    reference="Bengio et al., A Neural Probabilistic Language Model, JMLR 3 (2003)",
    sizes={"nano": Shape(hidden=48, embedding=16), "tiny": Shape(hidden=96, embedding=32)},
    implementation="llmctl_spelling.window:build",
    weights=weights,
    learning_rate=5e-3,
)
