"""Settings of `compare`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, create_model, model_validator

from llmctl import registry
from llmctl.config import Duration, Size, Spec, UsageValueError, flag, key
from llmctl.metrics.spec import IntervalSpec
from llmctl.models.spec import HUB, Shape
from llmctl.workflows.settings import ModelReference, RequestedMetric
from llmctl.workflows.train.spec import TrainConfig


class RateSearch(Spec):
    """How a model's learning rate is found where none is given."""

    rates: StrictInt = key(3, "how many are tried, a factor of 3 apart around the model's own; 1: no search", ge=1)
    share: StrictFloat = key(0.1, "share of the budget that each is tried for", gt=0, le=1)

    @model_validator(mode="after")
    def _has_a_middle(self) -> RateSearch:
        if self.rates % 2 == 0:
            raise UsageValueError(
                f"{self.rates} rates have no middle, which is the model's own", f"{self.rates + 1} or {self.rates - 1}"
            )
        return self


_OF_COMPARE: Final = frozenset(
    [
        *("data", "out", "epochs", "max_steps", "max_tokens", "max_time", "batch_size", "precision", "seed"),
        "noise_density",
        *("machines", "machine_rank", "main_address"),
    ]
)
"""Settings of `train` that are `compare`'s own, or that a comparison on one machine has no use for."""


class _FurtherSettings(Spec):
    """What else every model of a comparison is trained with."""

    renamed: ClassVar[Mapping[str, str]] = TrainConfig.renamed

    model: Shape = key(Shape(), "settings of every model, random weights alone have them")

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
                f"not for a comparison: {', '.join(named)}", "it has data, models, budgets and lr itself"
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
    """`rnn,lstm` is two models; what is a folder whole is one."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return value
    found: list[Any] = []
    for each in given:
        several = isinstance(each, str) and not os.path.exists(os.path.expanduser(each))
        found += [part.strip() for part in each.split(",") if part.strip()] if several else [each]
    return tuple(found)


def same_model(name: str) -> str:
    """One spelling for all that mean the same model: `gpt2` is `gpt2:nano`, a folder is its absolute path."""
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
            raise UsageValueError(f"{name} and {seen[same]} are the same model", "name each once")
        seen[same] = name
    return names


ModelList = Annotated[tuple[ModelReference, ...], BeforeValidator(_model_list), AfterValidator(_each_once)]


Rate = Annotated[StrictFloat, Field(gt=0)]


class CompareConfig(Spec):
    """Models trained and scored alike."""

    data: Path = flag(..., "a prepared folder", panel="Main")
    models: ModelList = flag(
        ..., "NAME[:SIZE], a folder or hf:ID; several with commas between, or repeated", panel="Main", min_length=1
    )
    out: Path = flag(..., "the folder to make", panel="Main")
    epochs: StrictFloat | None = flag(
        None, "stop after so many passes; 3 when no budget is given", panel="Budget", gt=0
    )
    max_steps: Size | None = flag(None, "stop after so many optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "stop after so many tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "stop after so long: 90s, 55m", panel="Budget", gt=0)
    batch_size: StrictInt = flag(32, "records (blocks) of one optimizer step", panel="Learning", ge=1)
    lr: Rate | None = flag(
        None, "one peak learning rate for all models; found for each by a short search when not given", panel="Learning"
    )
    lrs: dict[str, Rate] = key({}, "learning rates of chosen models: {gpt2: 1e-3}")
    search: RateSearch = key(RateSearch(), "how learning rates are found")
    precision: Literal["auto", "fp32", "bf16"] = flag(
        "auto", "of training; auto: bf16 autocast where the processor has it", panel="Learning"
    )
    train: TrainSettings = key(TrainSettings(), "further settings of train for every model")
    metric: tuple[RequestedMetric, ...] = flag(
        (), "of the test split, the task's own when not given; repeatable", panel="Score"
    )
    limit: StrictInt | None = flag(None, "score the first so many records", panel="Score", ge=1)
    max_new_tokens: Size = key(256, "longest answer in tokens", ge=1)
    interval: IntervalSpec = key(IntervalSpec(), "confidence interval")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
