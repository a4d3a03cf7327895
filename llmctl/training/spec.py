"""What a training run can be asked for: optimizer, schedule. Light descriptions; defaults live here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from llmctl.config import Spec, key

Fraction = Annotated[StrictFloat, Field(ge=0, lt=1)]


class Optimizer(Spec):
    """How weights move."""

    name: Literal["adamw", "adam", "sgd"] = key("adamw", "the rule: adamw, adam or sgd (with momentum betas[0])")
    lr: StrictFloat | None = key(None, "peak learning rate; the model's own default when not given", gt=0)
    weight_decay: StrictFloat | None = key(
        None, "decay of matrices; 0.1 for adamw, 0 for adam and sgd when not given", ge=0
    )
    betas: tuple[Fraction, Fraction] = key((0.9, 0.95), "decay of the running means")
    eps: StrictFloat = key(1e-8, "added to the root of the second moment", gt=0)


class Schedule(Spec):
    """How the learning rate moves over a run's budget."""

    name: Literal["constant", "linear", "cosine"] = key("cosine", "shape after the warm-up")
    warmup_steps: StrictInt | None = key(
        None, "steps to reach the peak; a twentieth of the run, at most 200, when not given", ge=0
    )
    min_lr: StrictFloat = key(0.0, "learning rate at the end", ge=0)
