"""Format values for people."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any, Final

MOST_FOUND: Final = 20
"""Most fields that a message names."""


def number(value: Any) -> str:
    """Format a number with thousands separators and four significant digits; anything else with `str`."""
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
    """Return an absolute path inside the current folder relative to it; any other text unchanged but for line breaks,
    which are escaped."""
    here = os.path.join(os.getcwd(), "")
    text = text.replace("\n", "\\n") if os.path.isabs(text) or os.path.exists(text) else text
    return text.removeprefix(here) or text if os.path.isabs(text) else text


def quoted(value: Any) -> str:
    """A value as a shell reads it, so that a command in a hint can be pasted."""
    return shlex.quote(str(value))


def field_names(fields: Mapping[str, Any], depth: int = 3) -> list[str]:
    """The names of fields; those of nested ones, down to `depth`, with dots."""
    names: list[str] = []
    for name, value in fields.items():
        nested = isinstance(value, Mapping) and 0 < len(value) <= MOST_FOUND
        names += [f"{name}.{inner}" for inner in field_names(value, depth - 1)] if nested and depth else [name]
    return names


def found_fields(fields: Mapping[str, Any]) -> str:
    """The names of fields for a message, quoted where they could be misread."""
    names = field_names(fields)
    shown = [name if name.isprintable() and name == name.strip() and " " not in name else repr(name) for name in names]
    return ", ".join(shown[:MOST_FOUND]) + (", …" if len(shown) > MOST_FOUND else "") or "none"
