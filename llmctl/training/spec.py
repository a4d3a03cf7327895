"""Settings of optimizer and learning-rate schedule, with their defaults. Light: imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, StrictFloat, StrictInt

from llmctl.config import Spec, key

Fraction = Annotated[StrictFloat, Field(ge=0, lt=1)]


TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
TRACKERS: Final[Mapping[TrackerName, tuple[str, ...]]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),
    "trackio": ("trackio",),
}
"""Trackers and the modules that each needs; the first one is also the package to install."""


class Optimizer(Spec):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd"] = key("adamw", "optimizer: adamw, adam or sgd (with momentum betas[0])")
    lr: StrictFloat | None = key(None, "peak learning rate; default: derived from the model", gt=0)
    weight_decay: StrictFloat | None = key(
        None, "weight decay of matrices; default: 0.1 for adamw, 0 for adam and sgd", ge=0
    )
    betas: tuple[Fraction, Fraction] = key((0.9, 0.95), "decay rates of the first and second moment estimates")
    eps: StrictFloat = key(1e-8, "added to the denominator for numerical stability", gt=0)


class Dpo(Spec):
    """Preference tuning; formulas and sources are in `training/preference.py`."""

    beta: StrictFloat = key(0.1, "how strongly the model is held to the reference: the scale of rewards", gt=0)
    loss: Literal["sigmoid", "ipo", "hinge"] = key("sigmoid", "loss of a pair: sigmoid (DPO), ipo or hinge (SLiC)")
    label_smoothing: StrictFloat = key(
        0.0, "expected share of pairs whose preference is wrong; for the sigmoid loss", ge=0, lt=0.5
    )


class Schedule(Spec):
    """The learning-rate schedule over the budget of a run."""

    name: Literal["constant", "linear", "cosine"] = key("cosine", "decay after the warm-up: constant, linear or cosine")
    warmup_steps: StrictInt | None = key(None, "warm-up steps; default: 5 % of the run, at most 200", ge=0)
    min_lr: StrictFloat = key(0.0, "final learning rate", ge=0)
