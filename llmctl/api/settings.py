"""From Python's values to the settings of a verb."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from llmctl import config

Place = str | os.PathLike[str]
"""A path, or the name of something: a built-in data set, a model. `PreparedData` and `Run` are paths too."""

S = TypeVar("S", bound=config.Spec)


def validated(spec: type[S], given: Mapping[str, Any]) -> S:
    return config.validate(spec, block_of(spec, given))


def block_of(spec: type[config.Spec], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from Python as a recipe would have them; None means not given."""
    return config.combine(spec, [{name: _plain(value) for name, value in given.items() if value is not None}])


def _plain(value: Any) -> Any:
    """Paths and results of other calls as text, numbers of NumPy as Python's, tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def several(value: Place | Sequence[Place]) -> list[Place]:
    return [value] if isinstance(value, str | os.PathLike) else list(value)
