"""What the functions of the Python API return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.readable import number
from llmctl.types import Interval, Score


@dataclass(frozen=True)
class _Result:
    """What a command returned."""

    document: Mapping[str, Any] = field(repr=False)
    """The fields of the JSON document that the command prints with `--json`."""


@dataclass(frozen=True, repr=False)
class PreparedData(_Result):
    """A folder that `preprocess` made. It is a path: `train(data=…)` and `open_dataset(…)` take it as it is."""

    @property
    def path(self) -> Path:
        return Path(self.document["out"])

    @property
    def records(self) -> Mapping[str, Any]:
        """Counts: `read`, `kept`, `dropped` (by reason), `rejected`."""
        return dict(self.document["records"])

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of records of each split: `train`, `validation`, `test`."""
        return dict(self.document["splits"])

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"PreparedData({str(self.path)!r}, {', '.join(f'{name}={n}' for name, n in self.splits.items())})"


@dataclass(frozen=True, repr=False)
class Run(_Result):
    """A finished training run. It is a path: `load(…)`, `evaluate(…)` and `train(model=…)` take it as it is."""

    @property
    def path(self) -> Path:
        return Path(self.document["run"])

    @property
    def model(self) -> Path:
        """The folder of the best checkpoint's model, in the Hugging Face layout."""
        return Path(self.document["model"])

    @property
    def steps(self) -> int:
        return int(self.document["steps"])

    @property
    def validation(self) -> Mapping[str, float]:
        """Scores of the last evaluation on the validation split, `loss` in nats per token; empty without such a split.

        `model` is the best checkpoint, which may be an earlier one: `document["best"]` has its step and score.
        """
        return dict(self.document["validation"] or {})

    @property
    def loss_plot(self) -> Path:
        """The plot of losses and learning rate over steps, as PNG: `IPython.display.Image(run.loss_plot)`."""
        return self.path / "plots" / "loss.png"

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        scores = "".join(f", validation {name} {number(value)}" for name, value in self.validation.items())
        return f"Run({str(self.path)!r}, {self.steps} steps{scores})"


@dataclass(frozen=True, repr=False)
class Evaluation(_Result):
    """Scores. `evaluation["bleu"]` is the value of one; `scores` has intervals and signatures too."""

    @property
    def scores(self) -> tuple[Score, ...]:
        return tuple(
            Score(**{**each, "value": _nan(each["value"]), "ci": Interval(**each["ci"]) if each["ci"] else None})
            for each in self.document["scores"]
        )

    def __getitem__(self, metric: str) -> float:
        """The value of the first score of that name."""
        for score in self.scores:
            if score.metric == metric:
                return score.value
        raise KeyError(f"{metric}; the scores are {', '.join(score.metric for score in self.scores)}")

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(f'{score.metric}={number(score.value)}' for score in self.scores)})"


@dataclass(frozen=True, slots=True)
class ScoredRecord:
    """How likely a model finds a text, or the answer of a record.

    `logprob`: in nats, summed over `tokens` tokens, the end of the text included. `bytes`: of the text in UTF-8.
    """

    id: str
    logprob: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp(-logprob / tokens); NaN where no token is scored."""
        try:
            return math.exp(-self.logprob / self.tokens) if self.tokens else math.nan
        except OverflowError:
            return math.inf


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
