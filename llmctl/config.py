"""Configuration: recipe files, `--set` and flags are merged into one frozen, validated `Spec`.

A recipe is a YAML file whose top-level keys are verbs; each verb reads its own block. Later sources win: recipe files
in order, then `--set`, then flags. All faults are reported before anything is built, each with its full dotted path and
the closest valid spelling.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from llmctl import other_tools
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.recipes import parse_yaml, read_recipe
from llmctl.registry import near
from llmctl.values import Shown

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

S = TypeVar("S", bound="Spec")

MOST_LISTED: Final = 12
"""Most known keys that an error lists."""
LONGEST_NAME: Final = 255
"""Most bytes in the name of a file or folder (NAME_MAX of Linux and macOS)."""


def _check_nameable(path: Path) -> None:
    if "\0" in str(path):
        raise ValueError("a path cannot contain a NUL character")
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST_NAME:
        raise ValueError(f"a name of {longest} bytes is too long for a file or folder: at most {LONGEST_NAME}")


class Spec(BaseModel):
    """Base class of all settings: frozen, unknown keys are errors, the only place for defaults."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
    )
    shown: ClassVar[Shown | None] = None
    """How a value of this spec is shown where it has a flag."""
    shorthand: ClassVar[str | None] = None
    """The key that a plain string sets: `model: gpt2:nano` means `model: {name: gpt2:nano}`."""
    moved: ClassVar[Mapping[str, str]] = {}
    """Short names for nested keys: `lr` -> `optimizer.lr`."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and their names today, `corruption` -> `noise_density`: still read, never written."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, str) and cls.shorthand:
            return {cls.shorthand: value}
        return cls.current(value) if isinstance(value, Mapping) and cls.renamed else value

    @field_validator("*")
    @classmethod
    def _nameable(cls, value: Any) -> Any:
        """Refuse paths that no file system can hold, before anything is opened."""
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Path):
                _check_nameable(each)
        return value

    @classmethod
    def current(cls, block: Mapping[Any, Any]) -> dict[Any, Any]:
        """The block under today's keys. An old key given together with its new one stays, and validation rejects it."""
        return {name if cls.renamed.get(name) in block else cls.renamed.get(name, name): block[name] for name in block}

    @classmethod
    def defaults(cls) -> Self:
        """The settings with nothing set. Unlike `cls()`, it builds no validator, which help does not need."""
        return cast(Self, cls.model_construct())

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with these fields changed."""
        return type(self).model_validate(self.model_dump() | changes)


# ---------------------------------------------------------------------------------------------------------------
# Value types. Numbers are strict: `lr: "1e-3"` is text and is rejected.


def flag(default: Any, help: str, *, panel: str = "Settings", short: str | None = None, **rules: Any) -> Any:
    """A field with a command-line flag of the same name. `rules` are pydantic constraints (`ge`, `gt`, `le`, …)."""
    return Field(default, description=help, json_schema_extra={"panel": panel, "short": short}, **rules)


def key(default: Any, help: str, **rules: Any) -> Any:
    """A field without a flag, set by `--set` or in a recipe."""
    return Field(default, description=help, **rules)


def shown(info: FieldInfo) -> Shown:
    """The outermost `Shown` of a setting's type, found inside `| None` and `tuple[…, ...]` too."""
    return _shown_in((*reversed(info.metadata), info.annotation)) or Shown()


def _shown_in(parts: Iterable[Any]) -> Shown | None:
    for part in parts:
        if isinstance(part, Shown):
            return part
        if isinstance(part, type) and issubclass(part, Spec):
            return part.shown
        if found := _shown_in((*reversed(getattr(part, "__metadata__", ())), *get_args(part))):
            return found
    return None


# ---------------------------------------------------------------------------------------------------------------
# Merging and validating


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overridden by `over`; mappings are merged key by key."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def spec_of(annotation: Any) -> type[Spec] | None:
    """Return the `Spec` class inside an annotation such as `Spec | None` or `Annotated[Spec, …]`, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := spec_of(inner):
            return found
    return None


def _expanded(spec: type[Spec], block: Any) -> Any:
    """Expand every shorthand and short name, so that sources merge key by key."""
    if isinstance(block, str) and spec.shorthand:
        return {spec.shorthand: block}
    if not isinstance(block, Mapping):
        return block
    full: dict[str, Any] = {}
    for name, value in block.items():
        path = spec.moved.get(name, name) if isinstance(name, str) else str(name)
        for part in reversed(path.split(".")[1:]):
            value = {part: value}
        head = path.split(".")[0]
        field = spec.model_fields.get(head)
        inner = spec_of(field.annotation) if field else None
        full = merge(full, {head: _expanded(inner, value) if inner else value})
    return full


def parse_set(text: str) -> tuple[str, Any]:
    """`model.layers=6` -> (`model.layers`, 6). The value is parsed as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set takes KEY.PATH=VALUE, not {text!r}")
    return path.strip(), parse_yaml(value, f"--set {path.strip()}") if value else ""


def nested(path: str, value: Any) -> dict[str, Any]:
    """(`a.b`, 1) -> {a: {b: 1}}."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


def ignore(text: str) -> None:
    """Drop a note."""


def combine(
    spec: type[Spec], sources: Iterable[Mapping[str, Any]], *, note: Callable[[str], None] = ignore
) -> dict[str, Any]:
    """Merge the blocks given for one verb; later ones win. Old keys get their new names, and `note` reports each."""
    block: dict[str, Any] = {}
    for source in sources:
        spelled = _expanded(spec, source)
        if not isinstance(spelled, Mapping):
            raise ConfigError([Fault("", f"a block of settings must be a mapping, not {type(source).__name__}")])
        block = merge(block, spelled)
    return _renamed(spec, block, note)


def _renamed(
    spec: type[Spec], block: Mapping[str, Any], note: Callable[[str], None], prefix: str = ""
) -> dict[str, Any]:
    """The block under today's keys at every depth."""
    found = spec.current(block)
    for old in block.keys() - found.keys():
        note(f"`{prefix}{old}` is now `{prefix}{spec.renamed[old]}`")
    for name, value in found.items():
        field = spec.model_fields.get(name)
        inner = spec_of(field.annotation) if field else None
        if inner and isinstance(value, Mapping):
            found[name] = _renamed(inner, value, note, f"{prefix}{name}.")
    return found


def validate(spec: type[S], block: Mapping[str, Any], *, prefix: str = "") -> S:
    """Validate a block. Raises `ConfigError` with all faults at once; their paths start with `prefix`."""
    try:
        return spec.model_validate(block)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigError([fault for each in found for fault in _faults(spec, each, prefix)]) from error


def _only_block(verb: str, path: Path) -> Mapping[str, Any]:
    """Return the verb's block of a recipe. Raises `ConfigError` if there are several, which only `run` can handle."""
    block: Mapping[str, Any] | list[Any] = read_recipe(path).get(verb) or {}
    if isinstance(block, list):
        raise ConfigError(
            [Fault(verb, f"{path} has {len(block)} blocks of this verb", f"llmctl run {path} runs them in order")]
        )
    return block


def gather(
    verb: str,
    spec: type[Spec],
    *,
    recipes: Sequence[Path] = (),
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = ignore,
) -> dict[str, Any]:
    """Merge the verb's recipe blocks, `--set` overrides and flags, without validating them.

    `recorded`: settings an earlier run was started with; all others override them. `note`: see `combine`.
    """
    blocks: list[Mapping[str, Any]] = [_only_block(verb, path) for path in recipes]
    blocks += [nested(*parse_set(each)) for each in sets]
    blocks += [nested(name, value) for name, value in (flags or {}).items()]
    return merge(combine(spec, [recorded or {}]), combine(spec, blocks, note=note))


def load(
    verb: str,
    spec: type[S],
    *,
    recipes: Sequence[Path] = (),
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = ignore,
) -> S:
    """Merge recipe files, `--set` overrides and flags into one validated spec."""
    return validate(spec, gather(verb, spec, recipes=recipes, sets=sets, flags=flags, recorded=recorded, note=note))


# ---------------------------------------------------------------------------------------------------------------
# From pydantic errors to faults

_PROBLEMS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "unknown key",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "literal_error": "must be {expected}",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "path_type": "must be a path",
}


def _faults(spec: type[Spec], error: Mapping[str, Any], prefix: str) -> list[Fault]:
    """Convert a pydantic error to faults: one, or several if a value with its own settings was rejected."""
    outer, cause = _fault(spec, error, prefix), error.get("ctx", {}).get("error")
    if not isinstance(cause, UsageValueError) or not cause.faults:
        return [outer]
    return [replace(each, path=f"{outer.path}.{each.path}") for each in cause.faults]


def _fault(spec: type[Spec], error: Mapping[str, Any], prefix: str) -> Fault:
    location: tuple[Any, ...] = error["loc"]
    path = prefix + ".".join(str(part) for part in location if not str(part).startswith(("function-", "tagged-")))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        holder = _holder(spec, location[:-1])
        fields = [*holder.model_fields, *holder.moved] if holder else []
        few = len(fields) <= MOST_LISTED
        known = (f"known keys: {', '.join(fields)}" if few else "--help-all lists the known keys") if fields else None
        last = str(location[-1])
        if holder and (new := holder.renamed.get(last)):
            return Fault(path, f"is the old name of {new!r}, which is given too", f"keep {new!r} alone")
        deep = elsewhere(spec, last) or named_elsewhere(spec, last)
        meant = [f"{each!r}{f' (--{flag})' if (flag := _short(spec, each)) else ''}" for each in deep[:2]]
        hint = f"did you mean {' or '.join(meant)}?" if meant else near(last, fields) or other_tools.advice_on(last)
        return Fault(path, "unknown key", hint or known)
    if kind == "value_error":
        cause = context.get("error")
        if isinstance(cause, UsageValueError):
            return Fault(path, cause.problem, cause.hint)
        return Fault(path, str(cause))
    problem = _PROBLEMS.get(kind, error["msg"][:1].lower() + error["msg"][1:]).format(**context)
    given = error.get("input")
    if kind != "missing" and isinstance(given, str | int | float | bool):
        problem += f", not {json.dumps(given, ensure_ascii=False) if _plain(given) else given}"
    field = _field_help(spec, location)
    return Fault(path, problem, field if kind == "missing" else None)


def _plain(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class UsageValueError(ValueError):
    """Raised by validators to give a hint, for `Annotated[..., AfterValidator(…)]`.

    `faults`: for a value with its own settings, what is wrong with them; paths are relative to the value.
    """

    def __init__(self, problem: str, hint: str | None = None, *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.faults = tuple(faults)


def elsewhere(spec: type[Spec], name: str) -> list[str]:
    """Full paths of all settings called `name`, at any depth: `layers` -> `model.layers`."""
    name = spec.renamed.get(name, name)
    found = [name] if name in spec.model_fields else []
    for outer, field in spec.model_fields.items():
        inner = spec_of(field.annotation)
        found += [f"{outer}.{each}" for each in elsewhere(inner, name)] if inner else []
    return found


def named_elsewhere(spec: type[Spec], name: str) -> list[str]:
    """Full paths of the settings that other tools call `name`, as far as this spec has them."""
    return [path for path in other_tools.settings_called(name) if has(spec, path)]


def has(spec: type[Spec], path: str) -> bool:
    """Whether there is a setting with that full path."""
    head, _, rest = path.partition(".")
    field = spec.model_fields.get(head)
    inner = spec_of(field.annotation) if field and rest else None
    return has(inner, rest) if inner else field is not None and not rest


def _short(spec: type[Spec], path: str) -> str | None:
    """The flag of a nested setting that has one."""
    return next((short.replace("_", "-") for short, moved in spec.moved.items() if moved == path), None)


def _holder(spec: type[Spec], location: Sequence[Any]) -> type[Spec] | None:
    """The `Spec` class at the end of a path."""
    holder: type[Spec] | None = spec
    for part in location:
        field = holder.model_fields.get(str(part)) if holder else None
        if field is None:
            continue
        holder = spec_of(field.annotation)
    return holder


def _field_help(spec: type[Spec], location: Sequence[Any]) -> str | None:
    holder = _holder(spec, location[:-1])
    field = holder.model_fields.get(str(location[-1])) if holder else None
    return field.description if field else None


DocumentUnit = Literal["line", "paragraph", "file"]
"""How a plain text file is divided into documents."""
