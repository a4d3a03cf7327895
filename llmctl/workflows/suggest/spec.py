"""Settings of `suggest`."""

from __future__ import annotations

from pydantic import StrictInt

from llmctl.config import Spec, flag
from llmctl.settings import TaskName
from llmctl.values import Folder, Size


class SuggestConfig(Spec):
    """Rank the models for a task on this machine."""

    task: TaskName | None = flag(None, "task to learn (default: that of --data)", panel="Main")
    data: Folder | None = flag(None, "prepared folder, to take its size into account", panel="Main")
    memory: Size | None = flag(
        None, "available memory, such as 8GiB (default: free memory of this machine)", panel="Main", ge=1
    )
    batch_size: StrictInt = flag(32, "records (or blocks) per step", panel="Main", ge=1)
