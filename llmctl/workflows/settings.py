"""What settings of several verbs share: their types, and how two configurations are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, GetPydanticSchema
from pydantic_core import core_schema

from llmctl import registry
from llmctl.config import UsageValueError, key
from llmctl.data.spec import TOKENIZERS
from llmctl.errors import ConfigError, UsageError
from llmctl.gates import Gate, parse_gate
from llmctl.metrics.parse import MetricRequest, request_metric, request_score
from llmctl.models.spec import HUB, Shape

LOSS: Final = "loss"
"""What the best checkpoint is chosen by unless a metric is named."""


INSTRUCTION: Final = "what a decoder that is told in words shall do; what it learned, or the task's own when not given"


def registered(kind: str) -> Callable[[str], str]:
    """A validator: the canonical name of something in the registry."""

    def check(name: str) -> str:
        try:
            return registry.find(kind, name).name
        except UsageError as error:
            raise UsageValueError(error.message, error.hint) from error

    return check


def parsed(kind: type, read: Callable[[str], Any]) -> GetPydanticSchema:
    """Text is validated to the `kind` that `read` makes of it, and serialised as `str` of that: the text itself."""

    def check(value: Any, as_text: Callable[[Any], str]) -> Any:
        if isinstance(value, kind):
            return value  # of another configuration
        try:
            return read(as_text(value))
        except ConfigError as error:
            within = [replace(each, path=each.path.removeprefix("metric.")) for each in error.faults]
            raise UsageValueError(error.message, faults=within) from error
        except UsageError as error:
            raise UsageValueError(error.message, error.hint) from error

    schema = core_schema.no_info_wrap_validator_function(
        check,
        core_schema.str_schema(),
        serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
    )
    return GetPydanticSchema(lambda source, handler: schema)


def _best_by(text: str) -> MetricRequest | str:
    return text if text == LOSS else request_score(text)


def _model_reference(name: str) -> str:
    if registry.looks_like_path(name) or name.startswith(HUB):
        return name
    architecture, colon, size = name.partition(":")
    registered("models")(architecture)
    sizes = registry.load("models", architecture).sizes
    if colon and size not in sizes:
        raise UsageValueError(f"{architecture} has no size {size!r}", f"sizes: {', '.join(sizes)}")
    return name


def _tokenizer_reference(name: str) -> str:
    if name in TOKENIZERS or registry.looks_like_path(name) or name.startswith(HUB):
        return name
    hint = registry.near(name, TOKENIZERS) or f"kinds: {', '.join(TOKENIZERS)}; or a folder"
    raise UsageValueError(f"no tokenizer named {name!r}", hint)


def _column_map(value: str) -> str:
    for part in value.split(","):
        name, equals, column = part.partition("=")
        if not (equals and name.strip() and column.strip()):
            raise UsageValueError(f"{part!r} is not NAME=COLUMN", "write text=body,label=stars")
    return value


TaskName = Annotated[str, AfterValidator(registered("tasks"))]


EngineName = Annotated[str, AfterValidator(registered("engines"))]


ModelReference = Annotated[str, AfterValidator(_model_reference)]


TokenizerReference = Annotated[str, AfterValidator(_tokenizer_reference)]


ColumnMap = Annotated[str, AfterValidator(_column_map)]


RequestedMetric = Annotated[MetricRequest, parsed(MetricRequest, request_metric)]


RequestedGate = Annotated[Gate, parsed(Gate, parse_gate)]


BestBy = Annotated[MetricRequest | Literal["loss"], parsed(MetricRequest, _best_by)]


class ModelSettings(Shape):
    """Which model: `NAME[:SIZE]` for random weights, a folder for its own, `hf:ID` for the hub's."""

    shorthand: ClassVar[str | None] = "name"
    name: ModelReference = key(..., "NAME[:SIZE], a folder, or hf:ID")


def differing(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The keys at which two settings differ, with both values."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        yield path, was, now
        return
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            yield f"{path}.{name}", was.get(name), now.get(name)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{a: {b: 1}}` -> `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{prefix}{name}.") if isinstance(inner, Mapping) else {f"{prefix}{name}": inner}
    return found


def places(*named: str | Path | None) -> list[Path]:
    """Those of the references that are places on disk: no names of the registry or the hub."""
    from llmctl.data.sources import STDIN

    return [
        Path(each).expanduser()
        for each in named
        if isinstance(each, Path)
        or (isinstance(each, str) and each != STDIN and not each.startswith(HUB) and registry.looks_like_path(each))
    ]
