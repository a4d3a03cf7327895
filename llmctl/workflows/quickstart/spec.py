"""Settings of `quickstart`."""

from __future__ import annotations

from pathlib import Path

from pydantic import StrictInt

from llmctl.config import Spec, flag


class QuickstartConfig(Spec):
    """The whole lifecycle on data that ships with the package."""

    out: Path | None = flag(None, "the folder to make; quickstart, quickstart-2, … when not given", panel="Main")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
