"""Find changes that make a run fit in memory: forecast it with one setting changed, then with all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmctl.config import combine, validate
from llmctl.errors import EnvironmentFault, LlmctlError
from llmctl.training import machine
from llmctl.types import EventSink
from llmctl.workflows.train.checks import TrainPlan, examine
from llmctl.workflows.train.forecast import RESERVE, Forecast, forecast, gib
from llmctl.workflows.train.resources import precision_of
from llmctl.workflows.train.spec import TrainConfig


@dataclass(frozen=True, slots=True)
class Change:
    """A setting with which the run fits."""

    setting: str
    needed: int

    def to_dict(self) -> dict[str, Any]:
        return {"set": self.setting, "needed_bytes": self.needed}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run costs: `facts` for JSON, `summary` for a person. `refusal`: the error where it does not fit."""

    facts: Mapping[str, Any]
    summary: Mapping[str, Any]
    changes: tuple[Change, ...]
    """What would make it fit; empty where it fits."""
    refusal: EnvironmentFault | None


def cost_of(plan: TrainPlan, emit: EventSink, *, measure: bool = False) -> Cost:
    """Forecast the cost of a run. `measure`: run a few steps too, if the run fits in memory."""
    made = forecast(plan)
    facts, summary = made.to_dict(), made.summary()
    if not made.fits:
        found = changes(plan)
        facts["changes"] = [each.to_dict() for each in found]
        return Cost(facts, summary, tuple(found), refusal(made, found))
    if measure:
        from llmctl.workflows.train.measure import measure_run

        measured = measure_run(plan, emit)
        facts["measured"], summary["measured"] = measured.to_dict(made), measured.summary(made)
    return Cost(facts, summary, (), None)


def changes(plan: TrainPlan) -> list[Change]:
    """Changes that each make the run fit, the mildest first; if none does alone, all of them combined; empty if that
    does not fit either."""
    config = plan.config
    singles = list(_changes(plan))
    fitting = [Change(names, made.needed) for names, _, made in singles if made.fits]
    if fitting:
        return fitting
    together: dict[str, Any] = {}
    names: list[str] = []
    for setting, settings, _ in singles:
        if not set(settings) & set(together):
            together |= settings
            names.append(setting)
    made = _with(config, together) if len(names) > 1 else None
    return [Change(" and ".join(names), made.needed)] if made and made.fits else []


def _changes(plan: TrainPlan) -> Iterator[tuple[str, dict[str, Any], Forecast]]:
    """Each candidate: its spelling, the settings it changes and the forecast with it. Of several sizes, the largest
    that fits, else the smallest."""
    config = plan.config
    current = forecast(plan)
    share = -(-config.batch_size // current.resources.world)
    yield from _halved("micro_batch_size", min(config.micro_batch_size or share, share), 1, plan)
    if precision_of(config) == "fp32" and machine.has_bf16():
        yield from _tried("--precision bf16", {"precision": "bf16"}, plan)
    if plan.pretrained_folder is not None and config.adapter is None and plan.family != "encoder":
        yield from _tried("--adapter lora", {"adapter": {"name": "lora"}}, plan)
    if plan.prepared.manifest.block_size is None:
        yield from _halved("max_length", max(current.batch_shape.source, current.batch_shape.target), 32, plan)
    if plan.architecture is not None:
        for size in reversed(list(plan.architecture.sizes)):
            name = f"{plan.architecture.name}:{size}"
            made = _with(config, {"model": {"name": name}})
            if made is not None and made.fits and made.parameters < current.parameters:
                yield f"--model {name}", {"model": {"name": name}}, made
                break


def _halved(key: str, start: int, least: int, plan: TrainPlan) -> Iterator[tuple[str, dict[str, Any], Forecast]]:
    config = plan.config
    value, last = start // 2, None
    while value >= least:
        made = _with(config, {key: value})
        if made is not None:
            last = (f"--set {key}={value}", {key: value}, made)
            if made.fits:
                break
        value //= 2
    if last is not None:
        yield last


def _tried(setting: str, settings: dict[str, Any], plan: TrainPlan) -> Iterator[tuple[str, dict[str, Any], Forecast]]:
    if (made := _with(plan.config, settings)) is not None:
        yield setting, settings, made


def _with(config: TrainConfig, settings: Mapping[str, Any]) -> Forecast | None:
    """The forecast with these settings; None where they are not valid together."""
    block = combine(TrainConfig, [config.model_dump(mode="json", exclude_none=True), settings])
    try:
        return forecast(examine(validate(TrainConfig, block), offline=True))
    except LlmctlError:
        return None


def refusal(made: Forecast, found: list[Change]) -> EnvironmentFault:
    """The error for a run that does not fit, with the changes that make it fit as its hint."""
    hint = "; or ".join(f"{each.setting} ({gib(each.needed)})" for each in found)
    return EnvironmentFault(
        f"this run needs about {gib(made.needed)} of memory; {gib(made.resources.free or 0)} are free, of which {RESERVE:.0%} is reserved",
        hint=f"it would fit with {hint}" if hint else "a smaller model, shorter texts, or a machine with more memory",
    )
