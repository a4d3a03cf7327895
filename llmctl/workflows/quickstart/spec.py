"""Settings of `quickstart`."""

from __future__ import annotations

from pydantic import StrictInt

from llmctl.config import Spec, flag
from llmctl.values import LARGEST_SEED, Folder


class QuickstartConfig(Spec):
    """The full lifecycle on bundled data."""

    out: Folder | None = flag(
        None, "output folder (default: quickstart, or quickstart-2, … if it exists)", panel="Main"
    )
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
