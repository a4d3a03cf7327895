"""Configuration: from files, `--set` and flags to one frozen, validated `Spec`.

A recipe is a YAML file whose top-level keys are verbs; each verb reads its own block. Later sources win:
recipe files in order, then `--set`, then flags. Every fault is found before anything is built, each with its full
dotted path and the nearest valid spelling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from llmctl.catalog import VerbRow
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.registry import find_verb, near, near_path, verbs

RECIPE_VERSION: Final = 1

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen description of a part or a verb: unknown keys are errors, defaults live here and nowhere else."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
    )
    shorthand: ClassVar[str | None] = None
    """The key that a plain string stands for: `model: gpt2:nano` is `model: {name: gpt2:nano}`."""
    moved: ClassVar[Mapping[str, str]] = {}
    """Short names of deep keys, `lr` -> `optimizer.lr`: one setting, two ways to reach it."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and their names today, `corruption` -> `noise_density`: still read, never written."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, str) and cls.shorthand:
            return {cls.shorthand: value}
        return cls.current(value) if isinstance(value, Mapping) and cls.renamed else value

    @classmethod
    def current(cls, block: Mapping[Any, Any]) -> dict[Any, Any]:
        """The block under today's keys. An old key given together with its new one stays, and validation rejects it."""
        return {name if cls.renamed.get(name) in block else cls.renamed.get(name, name): block[name] for name in block}

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed and everything validated again."""
        return type(self).model_validate(self.model_dump() | changes)


# ---------------------------------------------------------------------------------------------------------------
# The types of values. Numbers are strict: `lr: "1e-3"` is text and is refused.

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g|b|t|ki?b|mi?b|gi?b|ti?b)?", re.IGNORECASE)
_SIZE_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: Any) -> Any:
    """`64k` -> 64,000, `2GiB` -> 2,147,483,648. Numbers pass through."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError(f"{value!r} is not a size; write 64k, 1.5M or 2GiB")
    number = float(found[1]) * _SIZE_UNITS[(found[2] or "").lower()]
    if number != int(number):
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


def parse_duration(value: Any) -> Any:
    """`90s` -> 90.0, `1h30m` -> 5,400.0. Numbers are seconds."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    if not _DURATION.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not a duration; write 90s, 55m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", value)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


Size = Annotated[int, BeforeValidator(parse_size), Strict()]
Duration = Annotated[float, BeforeValidator(parse_duration), Strict()]


def flag(default: Any, help: str, *, panel: str = "Settings", short: str | None = None, **rules: Any) -> Any:
    """A field that also has a command-line flag of the same name. `rules` are pydantic's (`ge`, `gt`, `le`, …)."""
    return Field(default, description=help, json_schema_extra={"panel": panel, "short": short}, **rules)


def key(default: Any, help: str, **rules: Any) -> Any:
    """A field reached by `--set` or a recipe alone."""
    return Field(default, description=help, **rules)


# ---------------------------------------------------------------------------------------------------------------
# Reading YAML


def _yaml_loader() -> Any:
    """A safe loader that refuses duplicate keys and bombs of aliases, and reads 1e-3 as YAML 1.2 does: a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        aliases = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                self.aliases += 1
                if self.aliases > 100:
                    mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                    raise yaml.composer.ComposerError(None, None, "more than 100 aliases", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                name = self.construct_object(key_node, deep=True)
                if isinstance(name, str | int | float | bool) and name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} stands twice", key_node.start_mark
                    )
                if isinstance(name, str | int | float | bool):
                    seen.add(name)
            return super().construct_mapping(node, deep=deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """The value that YAML text holds. Raises `ConfigError` with line and column."""
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([Fault(place, f"not valid YAML: {problem}")], where=place) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError([Fault(where, f"not valid YAML: {error or 'nested too deep'}")], where=where) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file as a mapping of verb to block. Raises `ConfigError` for anything that is no recipe."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"no such recipe: {path}", hint=near_path(path, pattern="*.y*ml")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error
    value = parse_yaml(text, str(path))
    if value is None:
        raise ConfigError([Fault(str(path), "the recipe is empty", _top_level_keys())])
    if not isinstance(value, dict):
        raise ConfigError([Fault(str(path), "a recipe is a mapping", _top_level_keys())])
    recipe = cast(dict[str, Any], value)
    version = recipe.pop("version", RECIPE_VERSION)
    if version != RECIPE_VERSION:
        from llmctl.errors import IntegrityError

        raise IntegrityError(
            f"version {version!r} of recipes is not known, this llmctl reads {RECIPE_VERSION}",
            where=f"{path}:version",
            hint="pip install --upgrade llmctl",
        )
    unknown = [str(name) for name in recipe if not _reads_recipes(find_verb(str(name)))]
    faults = [
        Fault(name, f"unknown key in {path}", near(name, _recipe_verbs()) or _top_level_keys()) for name in unknown
    ]
    if faults:
        raise ConfigError(faults, where=str(path))
    return recipe


def _reads_recipes(row: VerbRow | None) -> bool:
    return row is not None and row.recipe != "no"


def _recipe_verbs() -> list[str]:
    return [row.name for row in verbs().values() if _reads_recipes(row)]


def _top_level_keys() -> str:
    return f"its top-level keys are {', '.join(_recipe_verbs())}"


# ---------------------------------------------------------------------------------------------------------------
# Merging and validating


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mappings key by key."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def spec_of(annotation: Any) -> type[Spec] | None:
    """The `Spec` class inside an annotation, through `| None` and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := spec_of(inner):
            return found
    return None


def _spelled_out(spec: type[Spec], block: Any) -> Any:
    """The block with every shorthand and every moved key written in full, so that sources merge key by key."""
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
        full = merge(full, {head: _spelled_out(inner, value) if inner else value})
    return full


def parse_set(text: str) -> tuple[str, Any]:
    """`model.layers=6` -> (`model.layers`, 6). The value is YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set takes key.path=value, not {text!r}")
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
        spelled = _spelled_out(spec, source)
        if not isinstance(spelled, Mapping):
            raise ConfigError([Fault("", f"a block of settings is a mapping, not {type(source).__name__}")])
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
    """The frozen spec. Raises `ConfigError` with every fault at once."""
    try:
        return spec.model_validate(block)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigError([fault for each in found for fault in _faults(spec, each, prefix)]) from error


def _only_block(verb: str, path: Path) -> Mapping[str, Any]:
    """The verb's block of a recipe. Raises `ConfigError` where it has several: they are run in their order."""
    block: Mapping[str, Any] | list[Any] = read_recipe(path).get(verb) or {}
    if isinstance(block, list):
        raise ConfigError(
            [Fault(verb, f"{path} has {len(block)} blocks of it", f"llmctl run {path} runs them in order")]
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
    """The verb's block of the recipes with `--set` overrides and flags laid upon it, not validated yet.

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
    """The one door: files, `--set` overrides and flags, as one validated spec."""
    return validate(spec, gather(verb, spec, recipes=recipes, sets=sets, flags=flags, recorded=recorded, note=note))


# ---------------------------------------------------------------------------------------------------------------
# Telling faults

_PROBLEMS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "unknown key",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "literal_error": "must be {expected}",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}


def _faults(spec: type[Spec], error: Mapping[str, Any], prefix: str) -> list[Fault]:
    """pydantic's finding in our words: one fault, or those within a value that has settings of its own."""
    whole, cause = _fault(spec, error, prefix), error.get("ctx", {}).get("error")
    if not isinstance(cause, UsageValueError) or not cause.faults:
        return [whole]
    return [replace(each, path=f"{whole.path}.{each.path}") for each in cause.faults]


def _fault(spec: type[Spec], error: Mapping[str, Any], prefix: str) -> Fault:
    location: tuple[Any, ...] = error["loc"]
    path = prefix + ".".join(str(part) for part in location if not str(part).startswith(("function-", "tagged-")))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        holder = _holder(spec, location[:-1])
        fields = [*holder.model_fields, *holder.moved] if holder else []
        known = f"known keys: {', '.join(fields)}" if fields else None
        last = str(location[-1])
        if holder and (new := holder.renamed.get(last)):
            return Fault(path, f"is the old name of {new!r}, which is given too", f"keep {new!r} alone")
        deep = [repr(each) for each in elsewhere(spec, last)[:2]]
        meant = f"did you mean {' or '.join(deep)}?" if deep else near(last, fields)
        return Fault(path, "unknown key", meant or known)
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
    """A validator's finding with a hint of its own, for `Annotated[..., AfterValidator(…)]`.

    `faults`: where the value has settings of its own, those of them that are wrong; their paths begin within the value.
    """

    def __init__(self, problem: str, hint: str | None = None, *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.faults = tuple(faults)


def elsewhere(spec: type[Spec], name: str) -> list[str]:
    """The full paths of the settings of that name, at whatever depth: `layers` -> `model.layers`."""
    name = spec.renamed.get(name, name)
    found = [name] if name in spec.model_fields else []
    for outer, field in spec.model_fields.items():
        inner = spec_of(field.annotation)
        found += [f"{outer}.{each}" for each in elsewhere(inner, name)] if inner else []
    return found


def _holder(spec: type[Spec], location: Sequence[Any]) -> type[Spec] | None:
    """The Spec class that the path leads to."""
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
"""What one document of a plain text file is."""
