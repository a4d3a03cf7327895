"""`llmctl show models NAME --data PREPARED`: estimate the cost of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.cli.options import Option
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import UsageError
from llmctl.types import Event

PANEL: Final = "show models NAME"
OPTIONS: Final = (
    Option(
        "--data", "prepared data: estimate memory and compute for training on it", PANEL, "DIR", is_path=True, text=True
    ),
    Option("--measure", "with --data: run a few training steps to measure the time; nothing is kept", PANEL),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost forecast: `facts` for JSON, `summary` for the terminal."""

    facts: Mapping[str, Any]
    summary: Mapping[str, str]

    def show(self, document: Mapping[str, Any]) -> None:
        print(f"{document['name']}  {plain(document['summary'])}\n")
        width = max(map(len, self.summary))
        for name, value in self.summary.items():
            print(f"{name:<{width}}  {plain(value)}")


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
    from llmctl.workflows.train import forecast as forecasting
    from llmctl.workflows.train.checks import examine
    from llmctl.workflows.train.spec import TrainConfig

    flags = {"data": Path(data), "model": name, "out": "not-made"}
    config = configuration.load("train", TrainConfig, sets=session.sets, flags=flags, note=session.note)
    if measure:
        forecasting.check_measurable(config)
    checked = examine(config, offline=True)
    made = forecasting.forecast(checked)
    facts, summary = made.to_dict(), made.summary()
    if not made.fits:
        changes = fitting.changes(checked)
        facts["changes"] = [each.to_dict() for each in changes]
        summary["it would fit with"] = "; or ".join(each.setting for each in changes) or "no setting that was tried"
        if measure:
            session.emit(Event("warning", {"text": "not measured: it does not fit in free memory"}))
    elif measure:
        from llmctl.workflows.train.measure import measure_run

        found = measure_run(checked, session.emit)
        facts["measured"], summary["measured"] = found.to_dict(made), found.summary(made)
    return Cost(facts, summary)
