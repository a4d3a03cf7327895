"""Values that a person writes: sizes (`64k`, `2GiB`), durations (`90s`, `1h30m`), and how help shows a type of value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Strict

LARGEST_SEED: Final = 2**62
"""Random numbers of 64 bits with a sign are made of it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How help and completion show the values of a type: `Annotated[str, Shown(metavar="TEXT")]`.

    `metavar`: stands for a value; default: by its type, else the name of the setting. `names`: the registry kind that the
    values name, or the values themselves, where others are valid too. `path`: values may be paths.
    """

    metavar: str = ""
    names: str | tuple[str, ...] = ()
    path: bool = False


Text = Annotated[str, Shown(metavar="TEXT")]


Folder = Annotated[Path, Shown(metavar="DIR")]


_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g|b|t|ki?b|mi?b|gi?b|ti?b)?", re.IGNORECASE)


_SIZE_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}


_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")


_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: Any) -> Any:
    """`64k` -> 64,000, `2GiB` -> 2,147,483,648. Other types pass through."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError(f"{value!r} is not a size; write 64k, 1.5M or 2GiB")
    number = float(found[1]) * _SIZE_UNITS[(found[2] or "").lower()]
    if number != int(number):
        raise ValueError(f"{value!r} is not an integer")
    return int(number)


def parse_duration(value: Any) -> Any:
    """Return seconds: `90s` -> 90.0, `1h30m` -> 5,400.0. Other types pass through."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    if not _DURATION.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not a duration; write 90s, 55m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", value)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


Size = Annotated[int, BeforeValidator(parse_size), Strict()]


Duration = Annotated[float, BeforeValidator(parse_duration), Strict(), Shown(metavar="TIME")]
