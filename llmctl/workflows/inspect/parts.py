"""Describe a part of the registry, and the settings of any `Spec`."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from llmctl import registry
from llmctl.config import spec_of
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.data.sets.spec import DataSetSpec
    from llmctl.engines.spec import EngineSpec
    from llmctl.metrics.spec import MetricSpec
    from llmctl.models.spec import ModelSpec
    from llmctl.tasks.spec import Task

VOCABULARY: Final = 4096
"""The vocabulary size used to count parameters: the default of `preprocess --vocab-size`."""


def describe(kind: str, name: str) -> dict[str, Any]:
    """Return the document of `show`. For models, `name` may include a size, `gpt2:tiny`, or be a run or a model folder.

    Raises `UsageError` with the closest names, `EnvironmentFault` if another package's part cannot be loaded.
    """
    kind = registry.kind_named(kind)
    size = None
    if kind == "models":
        reference, (name, colon, size_name) = name, name.partition(":")
        size = size_name if colon else None
        if name not in registry.table("models").lookup and registry.looks_like_path(reference):
            return _pretrained(reference)
    entry = registry.find(kind, name)
    part = registry.load(kind, entry.name)
    more = _model(part, size) if kind == "models" else _DESCRIBE[kind](part)
    return {**entry.to_dict(), "aliases": list(entry.aliases), **more}


def _pretrained(place: str) -> dict[str, Any]:
    """Describe a model folder from its files."""
    from llmctl.models import families
    from llmctl.models.resolve import open_weights
    from llmctl.store.weights import shapes

    folder = open_weights(place, offline=True)
    weights = sum(math.prod(shape) for shape in shapes(folder.path).values())
    return {
        "kind": "models",
        "name": place,
        "summary": f"pretrained weights, {folder.config.get('model_type', 'unknown architecture')}",
        "folder": str(folder.path),
        "family": families.family_of(folder.config),
        "task": folder.card.task if folder.card else None,
        "weights": weights,
        "base": str(folder.base) if folder.base else None,
    }


def _model(spec: ModelSpec, size: str | None) -> dict[str, Any]:
    if size is not None and size not in spec.sizes:
        hint = registry.near(size, spec.sizes) or f"sizes: {', '.join(spec.sizes)}"
        raise UsageError(f"{spec.name} has no size {size!r}", hint=hint)
    shown = {name: shape for name, shape in spec.sizes.items() if size in (None, name)}
    defaults = spec.sizes[size or spec.default_size].explicit()
    shape_options = {option["name"]: option for option in settings(type(spec.sizes[spec.default_size]))}
    return {
        "family": spec.family,
        "reference": spec.reference,
        "default_size": spec.default_size,
        "learning_rate": spec.learning_rate,
        "vocabulary": VOCABULARY,
        "sizes": [
            {"size": name, "parameters": spec.parameters(shape, VOCABULARY), "settings": shape.explicit()}
            for name, shape in shown.items()
        ],
        "options": [
            {**shape_options[name], "name": f"model.{name}", "default": defaults.get(name)} for name in spec.settings()
        ],
    }


def _task(task: type[Task]) -> dict[str, Any]:
    return {
        "version": task.version,
        "columns": [
            {"name": column.name, "type": _TYPES.get(column.kind, column.kind.__name__), "required": column.required}
            for column in task.columns
        ],
        "families": list(task.families),
        "metrics": list(task.metrics),
    }


def _metric(spec: MetricSpec) -> dict[str, Any]:
    return {
        "scores": list(spec.scores),
        "scale": spec.scale,
        "reads": spec.output_type,
        "higher_is_better": spec.higher_is_better,
        "reference": spec.reference,
        "options": list(settings(spec.options)),
    }


def _data_set(spec: DataSetSpec) -> dict[str, Any]:
    return {
        "task": spec.task,
        "records": spec.records,
        "languages": list(spec.languages),
        "licence": spec.licence,
        "source": spec.source,
        "notice": spec.notice,
        "command": f"llmctl preprocess {spec.name} --out data/{spec.name}",
    }


def _engine(spec: EngineSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"implementation": spec.implementation, "installed": spec.installed}
    return found if spec.installed else found | {"install": spec.install}


# ---------------------------------------------------------------------------------------------------------------
# The settings of a `Spec`

_TYPES: Final[Mapping[Any, str]] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true|false",
    list: "list",
    dict: "mapping",
}


def settings(spec: type[BaseModel], prefix: str = "") -> Iterator[dict[str, Any]]:
    """Every setting of a spec, including nested blocks, with dotted path, type, default and description."""
    for name, info in spec.model_fields.items():
        inner = spec_of(info.annotation)
        default = info.get_default(call_default_factory=True, validated_data={})
        if inner is not None:
            yield from settings(inner, f"{prefix}{name}.")
            continue
        yield {
            "name": f"{prefix}{name}",
            "type": type_name(info.annotation),
            "default": None if default is PydanticUndefined else default,
            "required": info.is_required(),
            "description": info.description or "",
        }


def type_name(annotation: Any) -> str:
    """The type of a field for display: `number`, `exp|floor`, `list of text`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(each) for each in get_args(annotation) if each is not types.NoneType)
    if origin is Literal:
        return "|".join(str(each) for each in get_args(annotation))
    if origin is dict:
        return _TYPES[dict]
    if origin in (tuple, list):
        return f"list of {type_name(get_args(annotation)[0])}"
    if is_dataclass(annotation):
        return _TYPES[str]  # parsed from text
    return _TYPES.get(annotation) or getattr(annotation, "__name__", str(annotation)).lower()


_DESCRIBE: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "tasks": _task,
    "metrics": _metric,
    "datasets": _data_set,
    "engines": _engine,
}
