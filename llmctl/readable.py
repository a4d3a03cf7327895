"""Format values for people."""

from __future__ import annotations

import os
from typing import Any


def number(value: Any) -> str:
    """Format a number with thousands separators and four significant digits; anything else with `str`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:.3g}"


def from_here(text: str) -> str:
    """Return an absolute path inside the current folder relative to it; any other text unchanged."""
    here = os.path.join(os.getcwd(), "")
    return text.removeprefix(here) or text if os.path.isabs(text) else text
