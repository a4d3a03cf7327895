"""Settings of `compare`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, create_model, model_validator

from llmctl import registry
from llmctl.config import Spec, UsageValueError, flag, key
from llmctl.metrics.spec import IntervalSpec
from llmctl.models.spec import HUB, Shape
from llmctl.settings import ModelReference, RequestedMetric
from llmctl.values import LARGEST_SEED, Duration, Folder, Shown, Size
from llmctl.workflows.train.spec import TrainConfig


class RateSearch(Spec):
    """Search for the learning rate of a model."""

    rates: StrictInt = key(
        3, "learning rates to try, a factor of 3 apart around the model default; odd; 1: no search", ge=1
    )
    share: StrictFloat = key(0.1, "fraction of the budget used per trial", gt=0, le=1)

    @model_validator(mode="after")
    def _has_a_middle(self) -> RateSearch:
        if self.rates % 2 == 0:
            raise UsageValueError(
                f"{self.rates} is even: the model default must be in the middle",
                f"use {self.rates + 1} or {self.rates - 1}",
            )
        return self


_OF_COMPARE: Final = frozenset(
    [
        *("data", "out", "epochs", "max_steps", "max_tokens", "max_time", "batch_size", "precision", "seed"),
        "noise_density",
        *("machines", "machine_rank", "main_address"),
    ]
)
"""Settings of `train` that `compare` sets itself or does not support."""


class _FurtherSettings(Spec):
    """Further training settings for every model of a comparison."""

    renamed: ClassVar[Mapping[str, str]] = TrainConfig.renamed

    model: Shape = key(Shape.defaults(), "architecture settings of every model; not for pretrained weights")

    @model_validator(mode="before")
    @classmethod
    def _leave_to_compare(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        named = [name for name in value if cls.renamed.get(name, name) in (*_OF_COMPARE, "lr")]
        for block, inner in (("optimizer", "lr"), ("model", "name")):
            if isinstance(value.get(block), Mapping) and value[block].get(inner) is not None:
                named.append(f"{block}.{inner}")
        if named:
            raise UsageValueError(
                f"not allowed here: {', '.join(named)}", "set data, models, budgets and lr at the top level of compare"
            )
        return value


TrainSettings: Any = create_model(
    "TrainSettings",
    __base__=_FurtherSettings,
    __doc__=_FurtherSettings.__doc__,
    **{
        name: (info.annotation, info)
        for name, info in TrainConfig.model_fields.items()
        if name not in _OF_COMPARE and name != "model"
    },  # type: ignore[call-overload]
)


def _model_list(value: Any) -> Any:
    """Split `rnn,lstm` at commas, but not the path of an existing folder."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return value
    found: list[Any] = []
    for each in given:
        several = isinstance(each, str) and not os.path.exists(os.path.expanduser(each))
        found += [part.strip() for part in each.split(",") if part.strip()] if several else [each]
    return tuple(found)


def same_model(name: str) -> str:
    """Canonical name of a model: `gpt2` -> `gpt2:nano`; a folder -> its real path."""
    if name.startswith(HUB):
        return name
    if registry.looks_like_path(name):
        return os.path.realpath(os.path.expanduser(name))
    architecture, _, size = name.partition(":")
    return f"{registry.find('models', architecture).name}:{size or registry.load('models', architecture).default_size}"


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for name in names:
        if (same := same_model(name)) in seen:
            raise UsageValueError(f"{name} and {seen[same]} are the same model", "list each model once")
        seen[same] = name
    return names


ModelList = Annotated[
    tuple[ModelReference, ...],
    BeforeValidator(_model_list),
    AfterValidator(_each_once),
    Shown(names="models", path=True),
]


Rate = Annotated[StrictFloat, Field(gt=0)]


class CompareConfig(Spec):
    """Train and score several models under equal conditions."""

    data: Folder = flag(..., "prepared folder", panel="Main")
    models: ModelList = flag(
        ..., "NAME[:SIZE], folder or hf:ID; comma-separated or repeated", panel="Main", min_length=1
    )
    out: Folder = flag(..., "output folder", panel="Main")
    epochs: StrictFloat | None = flag(None, "budget in epochs (default: 3 if no budget is given)", panel="Budget", gt=0)
    max_steps: Size | None = flag(None, "budget in optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "budget in training tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "budget in time: 90s, 55m", panel="Budget", gt=0)
    batch_size: StrictInt = flag(32, "records (or blocks) per optimizer step", panel="Learning", ge=1)
    lr: Rate | None = flag(
        None, "peak learning rate for all models (default: searched for each model)", panel="Learning"
    )
    lrs: dict[str, Rate] = key({}, "learning rates of individual models: {gpt2: 1e-3}")
    search: RateSearch = key(RateSearch.defaults(), "learning-rate search")
    precision: Literal["auto", "fp32", "bf16"] = flag(
        "auto", "training precision; auto: bf16 autocast if the hardware supports it", panel="Learning"
    )
    train: TrainSettings = key(TrainSettings.defaults(), "further settings of `train` for every model")
    metric: tuple[RequestedMetric, ...] = flag(
        (), "metric on the test split; repeatable (default: the metrics of the task)", panel="Score"
    )
    limit: StrictInt | None = flag(None, "score only the first N records", panel="Score", ge=1)
    max_new_tokens: Size = key(256, "maximum length of an answer in tokens", ge=1)
    interval: IntervalSpec = key(IntervalSpec.defaults(), "confidence interval")
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
