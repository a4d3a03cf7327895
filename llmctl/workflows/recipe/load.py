"""Load a recipe as stages: merge its files and `--set`, validate every block and report all faults at once."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import config as configuration
from llmctl import registry
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.recipes import read_recipe
from llmctl.registry import near
from llmctl.verbs import Verb


def stages() -> list[str]:
    """The verbs that can be stages, in running order."""
    return [row.name for row in registry.verbs().values() if row.recipe == "stage"]


@functools.cache
def verb_of(name: str) -> Verb[Any]:
    """Return the verb called `name`."""
    row = registry.find_verb(name)
    assert row is not None, name
    found: Verb[Any] = registry.load_verb(row)
    return found


@dataclass(frozen=True, slots=True)
class Stage:
    """A verb with its block of the recipe: as written, and validated."""

    verb: Verb[Any]
    block: Mapping[str, Any]
    config: Any

    @property
    def makes(self) -> Path | None:
        return self.verb.makes(self.config)

    @property
    def reads(self) -> list[Path]:
        return self.verb.reads(self.config)


def load(
    recipes: Sequence[Path],
    *,
    sets: Sequence[str] = (),
    seed: int | None = None,
    verbs: Callable[[str], Verb[Any]] = verb_of,
    note: Callable[[str], None] = configuration.ignore,
) -> list[Stage]:
    """Load the stages of a recipe, overridden by later files and by `--set VERB.key=value`.

    Stages are ordered by verb; a verb with a list of blocks has one stage per block. `--set VERB.0.key=value` changes the
    first block, `--set VERB.key=value` changes all of them.

    Raises `ConfigError` with the faults of all blocks at once; each path starts with the verb.
    """
    blocks, faults = _blocks(recipes)
    known = stages()
    for text in sets:
        key, value = configuration.parse_set(text)
        stage_name, _, inner = key.partition(".")
        if stage_name in blocks:
            faults += _apply_set(blocks[stage_name], key, inner, value)
        elif stage_name in known:
            faults.append(Fault(key, f"the recipe has no stage {stage_name}", f"its stages: {', '.join(blocks)}"))
        else:
            faults.append(Fault(key, f"{stage_name!r} is not a stage", _meant(key, [verbs(each) for each in blocks])))
    found: list[Stage] = []
    made: list[str] = []
    notes: list[str] = []
    for name, number in ((each, number) for each in known for number in range(len(blocks.get(each, ())))):
        verb = verbs(name)
        seeded = seed is not None and "seed" in verb.spec.model_fields
        sources = [*blocks[name][number], *([{"seed": seed}] if seeded else [])]
        prefix = f"{name}.{number}." if len(blocks[name]) > 1 else f"{name}."
        try:
            block = _with_run(configuration.combine(verb.spec, sources, note=notes.append), made)
            made += [str(block.get("out"))] if verb.trains else []
            found.append(Stage(verb, block, configuration.validate(verb.spec, block, prefix=prefix)))
        except ConfigError as error:
            faults += [replace(each, path=each.path or prefix.rstrip(".")) for each in error.faults]
    for text in dict.fromkeys(notes):
        note(text)
    if not faults:
        faults += _clashes(found)
    if faults:
        raise ConfigError(faults)
    if not found:
        raise UsageError(f"{recipes[0]} has no stages", hint=f"stages: {', '.join(known)}")
    runs_made = [each.makes for each in found if each.verb.trains and each.makes is not None]
    name = recipes[0].stem
    return [replace(each, config=each.verb.placed(each.config, name, runs_made)) for each in found]


Layers = list[list[Any]]
"""For each block of a verb, the sources to merge; later ones win."""


def _blocks(recipes: Sequence[Path]) -> tuple[dict[str, Layers], list[Fault]]:
    """Collect the blocks of every verb. In a later file, a single block overrides all blocks, a list overrides one by one."""
    blocks: dict[str, Layers] = {}
    faults: list[Fault] = []
    known = stages()
    for path in recipes:
        for verb, value in read_recipe(path).items():
            several = value if isinstance(value, list) and value else [value]
            layers = blocks.setdefault(verb, [[] for _ in several])
            if verb not in known:
                faults.append(Fault(verb, "cannot be a stage of a recipe", f"llmctl {verb} --config {path}"))
                del blocks[verb]
            elif len(several) not in (1, len(layers)):
                problem = f"{path} overrides {len(layers)} blocks with {len(several)}"
                faults.append(Fault(verb, problem, "give one block for all, or the same number"))
            else:
                for number, layer in enumerate(layers):
                    layer.append(several[number % len(several)] or {})
    return blocks, faults


def _apply_set(layers: Layers, key: str, inner: str, value: Any) -> list[Fault]:
    """Apply a `--set` to the block with the given number, or to all blocks."""
    first, _, rest = inner.partition(".")
    if first.isdecimal():
        if int(first) >= len(layers):
            return [Fault(key, f"no such block: the recipe has {len(layers)}, numbered from 0")]
        layers, inner = [layers[int(first)]], rest
    for layer in layers:
        layer.append(configuration.nested(inner, value) if inner else value)
    return []


def _clashes(found: Sequence[Stage]) -> list[Fault]:
    """Find blocks with the same output, which would overwrite each other, and runs inside a run, which would be lost
    with it and are never listed."""
    places = [(each.verb, os.path.relpath(each.makes)) for each in found if each.makes is not None]
    twice = sorted({place for _, place in places if [other for _, other in places].count(place) > 1})
    named = sorted({(verb.name, place) for verb, place in places if place in twice})
    trained = [(verb.name, Path(place)) for verb, place in places if verb.trains]
    inside = [(name, one, other) for name, one in trained for _, other in trained if other in one.parents]
    return [
        *(Fault(name, f"two blocks write to {place}", "give each its own `out`") for name, place in named),
        *(
            Fault(f"{name}.out", f"{one} is inside the run {other}", "choose a folder outside it")
            for name, one, other in inside
        ),
    ]


def _with_run(block: dict[str, Any], made: Sequence[str]) -> dict[str, Any]:
    """Treat a model name as a path if it is a run of an earlier stage, even before it exists."""
    model = block.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    if name not in made or not isinstance(name, str) or os.sep in name:
        return block
    place = os.path.join(os.curdir, name)
    return {**block, "model": {**model, "name": place} if isinstance(model, Mapping) else place}


def _meant(key: str, verbs: Sequence[Verb[Any]]) -> str:
    """A hint for a key that does not start with a stage."""
    name = key.partition(".")[0]
    having = [verb.name for verb in verbs if name in (*verb.spec.model_fields, *verb.spec.moved, *verb.spec.renamed)]
    if having:
        return "did you mean " + " or ".join(f"{verb}.{key}" for verb in having) + "?"
    return near(name, stages()) or f"stages: {', '.join(verb.name for verb in verbs)}"
