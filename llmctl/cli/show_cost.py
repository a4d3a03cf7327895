"""`llmctl show models NAME --data PREPARED`: estimate the cost of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl import registry
from llmctl.cli.options import Option
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import UsageError
from llmctl.types import Event

if TYPE_CHECKING:
    from llmctl.workflows.train.fitting import Cost

PANEL: Final = "show models NAME"
OPTIONS: Final = (
    Option(
        "--data", "prepared data: estimate memory and compute for training on it", PANEL, "DIR", is_path=True, text=True
    ),
    Option("--measure", "with --data: run a few training steps to measure the time; nothing is kept", PANEL),
)


def refuse(session: Session) -> None:
    """Raise `UsageError` for forecast options if something else is shown."""
    given = {"--data": session.extra["data"], "--measure": session.extra["measure"], "--set": session.sets}
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} is only valid for: llmctl show models NAME --data PREPARED")


def cost_of(session: Session, kind: str, name: str) -> Cost | None:
    """The forecast, or None without `--data`. `--set` takes the settings of `train`."""
    data, measure = session.extra["data"], session.extra["measure"]
    if data is None or registry.kind_named(kind) != "models":
        refuse(session)
        return None
    from llmctl import config as configuration
    from llmctl.workflows.train import fitting
    from llmctl.workflows.train.checks import examine
    from llmctl.workflows.train.consistency import check_measurable
    from llmctl.workflows.train.spec import TrainConfig

    flags = {"data": Path(data), "model": name, "out": "not-made"}
    config = configuration.load("train", TrainConfig, sets=session.sets, flags=flags, note=session.note)
    if measure:
        check_measurable(config)
    cost = fitting.cost_of(examine(config, offline=True), session.emit, measure=measure)
    if measure and cost.refusal:
        session.emit(Event("warning", {"text": "not measured: it does not fit in free memory"}))
    return cost


def show(document: Mapping[str, Any], cost: Cost) -> None:
    """Print the model and its cost as lines."""
    print(f"{document['name']}  {plain(document['summary'])}\n")
    lines = dict(cost.summary)
    if cost.refusal:
        would_fit = "; or ".join(each.setting for each in cost.changes)
        lines["it would fit with"] = would_fit or "no setting that was tried"
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {plain(value)}")
