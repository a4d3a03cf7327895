"""Values as a person reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def number(value: Any) -> str:
    """A number as a person reads it; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:.3g}"


def progress_text(fields: Mapping[str, Any]) -> str:
    """`stage  name value  name value` of a progress event."""
    shown = [str(fields.get("stage", ""))]
    for name, value in fields.items():
        if name in ("stage", "done", "total"):
            continue
        shown.append(f"{name.replace('_', ' ')} {number(value)}")
    return "  ".join(filter(None, shown))


def from_here(text: str) -> str:
    """An absolute path below the current folder as seen from there; any other text as it is."""
    here = os.path.join(os.getcwd(), "")
    return text.removeprefix(here) or text if os.path.isabs(text) else text
