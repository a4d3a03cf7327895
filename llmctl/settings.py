"""Types of settings shared by several verbs, and the comparison of two configurations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, GetPydanticSchema
from pydantic_core import core_schema

from llmctl import registry
from llmctl.config import UsageValueError, key
from llmctl.data.spec import TOKENIZERS
from llmctl.errors import ConfigError, UsageError
from llmctl.gates import Gate, parse_count_gate
from llmctl.metrics.parse import MetricRequest, request_gate, request_metric, request_score
from llmctl.models.spec import HUB, SERVER, Shape
from llmctl.values import Shown

LOSS: Final = "loss"
"""The default score for choosing the best checkpoint."""


AUTO: Final = "auto"
"""The engine that the model asks for."""
CONCURRENCY: Final = 8
CONCURRENCY_HELP: Final = "requests to a server at a time"
VERIFY: Final = "verify"
"""The switch that hashes every file, see `store/integrity.py`."""
VERIFY_HELP: Final = "hash all weights (and prepared data) again, even where size and time are unchanged"


INSTRUCTION: Final = (
    "instruction for a decoder prompted in words; default: the one of its training, else the task's own"
)


def registered(kind: str) -> Callable[[str], str]:
    """A validator that returns the canonical name of a registry entry of this kind."""

    def check(name: str) -> str:
        try:
            return registry.find(kind, name).name
        except UsageError as error:
            raise UsageValueError(error.message, error.hint) from error

    return check


def parsed(kind: type, read: Callable[[str], Any]) -> GetPydanticSchema:
    """A schema that parses text to `kind` by `read` and serialises it back to the text by `str`."""

    def check(value: Any, as_text: Callable[[Any], str]) -> Any:
        if isinstance(value, kind):
            return value  # already parsed
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


_SERVER: Final = re.compile(rf"{SERVER}(?P<name>.+)@(?P<url>https?://[^\s@]+)")


def server_of(reference: str) -> tuple[str, str] | None:
    """Name and URL of `openai:NAME@URL`; None for other references."""
    found = _SERVER.fullmatch(reference)
    return (found["name"], found["url"].rstrip("/")) if found else None


def _model_reference(name: str) -> str:
    if name.startswith(SERVER):
        if server_of(name) is None:
            raise UsageValueError(f"{name} names no model and server", "openai:NAME@http://HOST:PORT/v1")
        return name
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


def _column_text(value: Any) -> Any:
    """`{text: body}` of a recipe as `text=body`."""
    if not isinstance(value, Mapping):
        return value
    if not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise UsageValueError("the mapping has a value that is not text", "write text: body")
    return ",".join(f"{name}={column}" for name, column in value.items())


def _column_map(value: str) -> str:
    for part in value.split(","):
        name, equals, column = part.partition("=")
        if not (equals and name.strip() and column.strip()):
            raise UsageValueError(f"{part!r} is not NAME=COLUMN", "write text=body,label=stars")
    return value


TaskName = Annotated[str, AfterValidator(registered("tasks")), Shown(names="tasks")]


def _engine(name: str) -> str:
    return name if name == AUTO else registered("engines")(name)


EngineName = Annotated[str, AfterValidator(_engine), Shown(names="engines")]


ModelReference = Annotated[str, AfterValidator(_model_reference), Shown(path=True)]


TokenizerReference = Annotated[str, AfterValidator(_tokenizer_reference), Shown(names=TOKENIZERS, path=True)]


ColumnMap = Annotated[str, BeforeValidator(_column_text), AfterValidator(_column_map), Shown(metavar="NAME=COLUMN")]


RequestedMetric = Annotated[MetricRequest, parsed(MetricRequest, request_metric), Shown(names="metrics")]


RequestedCountGate = Annotated[Gate, parsed(Gate, parse_count_gate)]


RequestedGate = Annotated[Gate, parsed(Gate, request_gate)]


BestBy = Annotated[MetricRequest | Literal["loss"], parsed(MetricRequest, _best_by), Shown(names="metrics")]


class ModelSettings(Shape):
    """The model: `NAME[:SIZE]` for random weights; a run, model folder or `hf:ID` for pretrained ones."""

    shown: ClassVar[Shown | None] = Shown(names="models", path=True)
    shorthand: ClassVar[str | None] = "name"
    name: ModelReference = key(..., "NAME[:SIZE], a folder, or hf:ID")


def differing(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two settings differ, each with both values."""
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
    """The references that are paths on disk, not names in the registry, on the hub or `-`."""
    from llmctl.data.reading.sources import STDIN

    return [
        Path(each).expanduser()
        for each in named
        if (isinstance(each, Path) and str(each) != STDIN)
        or (
            isinstance(each, str)
            and each != STDIN
            and not each.startswith((HUB, SERVER))
            and registry.looks_like_path(each)
        )
    ]
