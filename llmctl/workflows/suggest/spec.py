"""Settings of `suggest`."""

from __future__ import annotations

from pathlib import Path

from pydantic import StrictInt

from llmctl.config import Size, Spec, flag
from llmctl.workflows.settings import TaskName


class SuggestConfig(Spec):
    """Which models could learn a task here."""

    task: TaskName | None = flag(None, "what shall be learned; prepared data knows its own", panel="Main")
    data: Path | None = flag(None, "a prepared folder: its size decides with", panel="Main")
    memory: Size | None = flag(None, "memory there is, 8GiB; what is free here when not given", panel="Main", ge=1)
    batch_size: StrictInt = flag(32, "records (blocks) of one step", panel="Main", ge=1)
