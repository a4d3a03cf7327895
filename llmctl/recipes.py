"""Read recipe files and YAML values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, cast

from llmctl.catalog import VerbRow
from llmctl.errors import ConfigError, EnvironmentFault, Fault, IntegrityError, UsageError
from llmctl.registry import find_verb, near_path, near_verb, verbs

RECIPE_VERSION: Final = 1
LONGEST_NUMBER: Final = 300
"""Most digits of a whole number; Python refuses to print those of more than 4,300."""


def _yaml_loader() -> Any:
    """Make a safe loader that rejects duplicate keys and alias bombs, and reads 1e-3 as a number, as YAML 1.2 does."""
    import yaml

    def refused(problem: str, node: Any) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

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
                if key_node.tag == "tag:yaml.org,2002:merge":
                    raise refused("merge keys (<<) are not read: write these settings out", key_node)
                name = self.construct_object(key_node, deep=True)
                if isinstance(name, str | int | float | bool) and name in seen:
                    raise refused(f"duplicate key {name!r}", key_node)
                if isinstance(name, str | int | float | bool):
                    seen.add(name)
            return super().construct_mapping(node, deep=deep)

        def construct_yaml_int(self, node: Any) -> Any:
            value = super().construct_yaml_int(node)
            if abs(value) >= 10**LONGEST_NUMBER:
                raise refused(f"a number of more than {LONGEST_NUMBER} digits", node)
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text. Raises `ConfigError` with line and column."""
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([Fault(place, f"not valid YAML: {problem}")], where=place) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError([Fault(where, f"not valid YAML: {error or 'nested too deeply'}")], where=where) from error


LARGEST_RECIPE: Final = 4 << 20
"""Bytes; a device such as /dev/zero never ends."""


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file: a mapping from verb to block. Raises `ConfigError` if the file is not a recipe.

    Raises `UsageError` if the file cannot be read, `IntegrityError` if its version is unknown.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_RECIPE + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"no such recipe: {path}", hint=near_path(path, pattern="*.y*ml")) from None
    except PermissionError as error:
        raise EnvironmentFault(f"no permission to read {path}", hint=f"chmod u+r {path}, or ask its owner") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error
    if len(content) > LARGEST_RECIPE:
        raise UsageError(f"{path} is not a recipe: it is larger than {LARGEST_RECIPE >> 20} MiB")
    value = parse_yaml(text.replace("\r\n", "\n").replace("\r", "\n"), str(path))
    if value is None:
        raise ConfigError([Fault(str(path), "the recipe is empty", _top_level_keys())])
    if not isinstance(value, dict):
        raise ConfigError([Fault(str(path), "a recipe must be a mapping", _top_level_keys())])
    recipe = cast(dict[str, Any], value)
    version = recipe.pop("version", RECIPE_VERSION)
    if version != RECIPE_VERSION:
        raise IntegrityError(
            f"unknown recipe version {version!r}; this llmctl reads version {RECIPE_VERSION}",
            where=f"{path}:version",
            hint="pip install --upgrade llmctl",
        )
    unknown = [str(name) for name in recipe if not _reads_recipes(find_verb(str(name)))]
    faults = [
        Fault(name, f"unknown key in {path}", near_verb(name, _recipe_verbs()) or _top_level_keys()) for name in unknown
    ]
    if faults:
        raise ConfigError(faults, where=str(path))
    return recipe


def _reads_recipes(row: VerbRow | None) -> bool:
    return row is not None and row.recipe != "no"


def _recipe_verbs() -> list[str]:
    return [row.name for row in verbs().values() if _reads_recipes(row)]


def _top_level_keys() -> str:
    return f"top-level keys: {', '.join(_recipe_verbs())}"
