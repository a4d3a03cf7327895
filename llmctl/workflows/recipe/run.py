"""`run`: the stages of a recipe in order. What is unchanged is skipped, what was interrupted goes on.

A stage is unchanged when its settings, the content of its inputs, llmctl's version and the content of its output are
those of its record. An output whose record fits it is this verb's own and is replaced without `--force`; anything
else that is in the way is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

from llmctl import __version__
from llmctl import config as configuration
from llmctl.config import Spec
from llmctl.errors import ConfigError, Fault, GateError, LlmctlError, UsageError
from llmctl.registry import near
from llmctl.store import runs, whole
from llmctl.store.prepared import is_prepared, open_prepared
from llmctl.types import Event, Tell
from llmctl.workflows.recipe import record as stage
from llmctl.workflows.recipe.record import STAGES, Asked, Work
from llmctl.workflows.recipe.specs import SPECS
from llmctl.workflows.settings import flat


@dataclass(frozen=True, slots=True)
class Stage:
    """A verb with its block of the recipe: as written, and validated."""

    verb: str
    block: Mapping[str, Any]
    config: Any


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a stage, and why.

    `owned`: what is in the way of its output was made by a stage before. Refused: something else is.
    """

    status: Literal["runs", "resumes", "skipped", "refused"]
    why: str
    inputs: Mapping[str, str]
    owned: bool = False
    pending: bool = False
    """An input is yet to be made by a stage before: decided again when its turn comes."""
    record: stage.Record | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stage."""

    verb: str
    status: Literal["ran", "skipped", "failed"]
    why: str
    seconds: float
    document: Mapping[str, Any]
    output: str | None = None
    """What it makes: it tells two stages of one verb apart."""
    error: LlmctlError | None = None

    def row(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "output": self.output,
            "status": self.status,
            "why": self.why,
            "seconds": round(self.seconds, 3),
            "document": dict(self.document),
            **({"error": {"kind": self.error.kind, "message": str(self.error)}} if self.error else {}),
        }


def load(recipes: Sequence[Path], *, sets: Sequence[str] = (), seed: int | None = None) -> list[Stage]:
    """The stages of a recipe, later files and `--set VERB.key=value` laid upon it: verb by verb, and of a verb that has
    a list of blocks one after the other. `--set VERB.0.key=value` means the first of them, without the number all.

    Raises `ConfigError` with the faults of every block at once, each path beginning with the verb.
    """
    blocks, faults = _blocks(recipes)
    for text in sets:
        key, value = configuration.parse_set(text)
        verb, _, inner = key.partition(".")
        if verb in blocks:
            faults += _lay(blocks[verb], key, inner, value)
        elif verb in STAGES:
            faults.append(Fault(key, f"the recipe has no stage {verb}", f"its stages are {', '.join(blocks)}"))
        else:
            faults.append(Fault(key, f"{verb!r} is no stage", _meant(key, list(blocks))))
    found: list[Stage] = []
    made: list[str] = []
    for verb, number in ((each, number) for each in STAGES for number in range(len(blocks.get(each, ())))):
        sources = [*blocks[verb][number], *([{"seed": seed}] if seed is not None else [])]
        prefix = f"{verb}.{number}." if len(blocks[verb]) > 1 else f"{verb}."
        try:
            block = _with_run(configuration.combine(SPECS[verb], sources), made)
            made += [str(block.get("out"))] if verb == "train" else []
            found.append(Stage(verb, block, configuration.validate(SPECS[verb], block, prefix=prefix)))
        except ConfigError as error:
            faults += [replace(each, path=each.path or prefix.rstrip(".")) for each in error.faults]
    if not faults:
        faults += _clashes(found)
    if faults:
        raise ConfigError(faults)
    if not found:
        raise UsageError(f"{recipes[0]} has no stage", hint=f"stages: {', '.join(STAGES)}")
    return [_with_place(each, found, recipes[0].stem) for each in found]


Layers = list[list[Any]]
"""For each block of a verb, what is laid upon each other, the later winning."""


def _blocks(recipes: Sequence[Path]) -> tuple[dict[str, Layers], list[Fault]]:
    """The blocks of every verb, later files laid upon earlier ones: one block upon all, a list upon a list of as many."""
    blocks: dict[str, Layers] = {}
    faults: list[Fault] = []
    for path in recipes:
        for verb, value in configuration.read_recipe(path).items():
            several = value if isinstance(value, list) and value else [value]
            layers = blocks.setdefault(verb, [[] for _ in several])
            if verb not in STAGES:
                faults.append(Fault(verb, "is no stage of a recipe", f"llmctl {verb} --config {path}"))
                del blocks[verb]
            elif len(several) not in (1, len(layers)):
                problem = f"{path} lays {len(several)} blocks upon {len(layers)}"
                faults.append(Fault(verb, problem, "give one for all, or as many"))
            else:
                for number, layer in enumerate(layers):
                    layer.append(several[number % len(several)] or {})
    return blocks, faults


def _lay(layers: Layers, key: str, inner: str, value: Any) -> list[Fault]:
    """Lay a `--set` upon the block that its number names, or upon all."""
    first, _, rest = inner.partition(".")
    if first.isdecimal():
        if int(first) >= len(layers):
            return [Fault(key, f"the recipe has {len(layers)} of these blocks, numbered from 0")]
        layers, inner = [layers[int(first)]], rest
    for layer in layers:
        layer.append(configuration.nested(inner, value) if inner else value)
    return []


def _clashes(found: Sequence[Stage]) -> list[Fault]:
    """Two blocks of a verb that make the same place: the second would wipe out the first. A run in a run would go with
    it, and is never listed."""
    made = [(each.verb, stage.output(each.verb, each.config)) for each in found]
    places = [(verb, os.path.relpath(place)) for verb, place in made if place is not None]
    twice = sorted({place for place in places if places.count(place) > 1})
    trained = [Path(place) for verb, place in places if verb == "train"]
    inside = [(one, other) for one in trained for other in trained if other in one.parents]
    return [
        *(Fault(verb, f"two of its blocks make {place}", "give each its own") for verb, place in twice),
        *(Fault("train.out", f"{one} lies inside the run {other}", "give each its own") for one, other in inside),
    ]


def _with_run(block: dict[str, Any], made: Sequence[str]) -> dict[str, Any]:
    """A model that is a run this recipe has made before is a place, also while it is not there yet."""
    model = block.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    if name not in made or not isinstance(name, str) or os.sep in name:
        return block
    place = os.path.join(os.curdir, name)
    return {**block, "model": {**model, "name": place} if isinstance(model, Mapping) else place}


def _meant(key: str, verbs: Sequence[str]) -> str:
    """What a key that does not begin with a stage may have been."""
    name = key.partition(".")[0]
    having = [verb for verb in verbs if name in (*SPECS[verb].model_fields, *SPECS[verb].moved)]
    if having:
        return "did you mean " + " or ".join(f"{verb}.{key}" for verb in having) + "?"
    return near(name, STAGES) or f"stages: {', '.join(verbs)}"


def _with_place(each: Stage, all_stages: Sequence[Stage], name: str) -> Stage:
    """Scores of a run's model are kept in the run, in one place a recipe, so that they can be found again."""
    if each.verb != "eval" or each.config.out is not None or each.config.model is None:
        return each
    model = Path(each.config.model)
    made_here = any(
        _same(stage.output(other.verb, other.config), model) for other in all_stages if other.verb == "train"
    )
    if not made_here and not (model / runs.RUN).is_file():
        return each
    return replace(each, config=each.config.replace(out=model / "evals" / f"{name}-{each.config.split}"))


def _same(one: Path | None, other: Path) -> bool:
    return one is not None and os.path.abspath(one) == os.path.abspath(other)


def plan(all_stages: Sequence[Stage], *, force: bool = False) -> list[Decision]:
    """What would run, what would be skipped, and why. Nothing is written."""
    decisions: list[Decision] = []
    for number, each in enumerate(all_stages):
        before = zip(all_stages[:number], decisions, strict=True)
        remade = [other for other, decision in before if decision.status != "skipped"]
        decisions.append(_decide(each, remade, force=force))
    return decisions


def run(
    all_stages: Sequence[Stage],
    tell: Tell,
    *,
    force: bool = False,
    offline: bool = False,
    works: Callable[[str], Work] = stage.real,
) -> list[Outcome]:
    """Run what is not unchanged. An error of a stage ends the run with that error; its `document` tells all stages."""
    decisions = plan(all_stages, force=force)
    asked = Asked(tell, force=force, offline=offline)
    _check(all_stages, decisions, asked, works)
    outcomes: list[Outcome] = []
    for each, decision in zip(all_stages, decisions, strict=True):
        started = time.monotonic()
        settled = _decide(each, (), force=force) if decision.pending else decision
        place = stage.output(each.verb, each.config)
        made = None if place is None else str(place)
        several = sum(other.verb == each.verb for other in all_stages) > 1
        name = f"{each.verb} {made}" if several and made else each.verb
        # The result tells what was skipped.
        event = "detail" if settled.status == "skipped" else "note"
        tell(Event(event, {"text": f"{name}: {_now(settled.status)}, {settled.why}"}))
        if settled.record is not None and place is not None:
            document = stage.recalled(settled.record, place)
            outcomes.append(Outcome(each.verb, "skipped", settled.why, 0.0, document, made))
            continue
        try:
            document = _do(each, settled, asked, works(each.verb))
        except LlmctlError as error:
            seconds = time.monotonic() - started
            failed = Outcome(each.verb, "failed", settled.why, seconds, error.document, made, error)
            error.document = document_of([*outcomes, failed])
            raise
        outcomes.append(Outcome(each.verb, "ran", settled.why, time.monotonic() - started, document, made))
    return outcomes


def document_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The contract's fields."""
    return {"stages": [outcome.row() for outcome in outcomes]}


def refusal_of(outcomes: Sequence[Outcome]) -> GateError | None:
    """Records that a stage rejected, also one that was skipped: the stages after it ran, but the gate is not met."""
    from llmctl.workflows.preprocess.run import refusal

    for each in outcomes:
        if each.verb == "preprocess" and (refused := refusal(each.document)):
            return refused
    return None


def _now(status: str) -> str:
    return {"runs": "running", "resumes": "resuming"}.get(status, status)


# ---------------------------------------------------------------------------------------------------------------
# Deciding


def _decide(each: Stage, remade: Sequence[Stage], *, force: bool) -> Decision:
    read = stage.inputs(each.verb, each.config)
    made_before = next((other for other in remade if any(_reads(path, other) for path in read)), None)
    place = stage.output(each.verb, each.config)
    record = stage.read_record(place) if place is not None else None
    intact = record is not None and place is not None and stage.fingerprint(place) == record.output
    owned = place is not None and (intact or stage.is_claimed(place)) and not stage.holds_others(place)
    in_the_way = place is not None and _is_there(place) and not owned and not force
    if made_before is not None:
        status: Literal["runs", "refused"] = "refused" if in_the_way and not _interrupted(each) else "runs"
        return Decision(status, f"{made_before.verb} makes its input anew", {}, owned=owned, pending=True)
    hashes = {str(path): stage.fingerprint(path) for path in read}
    if force:
        return Decision("runs", "--force", hashes, owned=owned)
    if place is None:
        return Decision("runs", "it has no output to keep", hashes)
    if not _is_there(place):
        return Decision("runs", f"there is no {place} yet", hashes)
    if record is None or not intact:
        if why := _interrupted(each):
            return Decision("resumes", why, hashes)
        if owned:
            return Decision("runs", f"the stage that made {place} did not end well", hashes, owned=True)
        return Decision("refused", f"{place} was {'changed since' if record else 'not made by run'}", hashes)
    why = "; ".join(_changes(each, record, hashes))
    if why and not owned:
        return Decision("refused", f"{why}; {place / 'evals'} holds scores that run did not make", hashes)
    if why:
        return Decision("runs", why, hashes, owned=True)
    return Decision("skipped", f"unchanged since {record.at}", hashes, owned=True, record=record)


def _is_there(place: Path) -> bool:
    """Whether something would be replaced: an empty folder is nothing."""
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))


def _reads(path: Path, other: Stage) -> bool:
    """Whether `path` is what another stage makes, or lies in it."""
    made = stage.output(other.verb, other.config)
    if made is None:
        return False
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(made))


def _changes(each: Stage, record: stage.Record, hashes: Mapping[str, str]) -> Iterator[str]:
    """What is not as the record says."""
    if record.verb != each.verb:
        yield f"it was made by {record.verb}"
    if record.llmctl != __version__:
        yield f"it was made by llmctl {record.llmctl}"
    if not stage.repeatable(each.verb, each.config):
        yield "it reads standard input"
    before, after = flat(record.config), flat(stage.settings(each.config))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        yield f"changed: {', '.join(changed)}"
    for path in {**record.inputs, **hashes}:
        if record.inputs.get(path) != hashes.get(path):
            yield f"the input {path} changed"


def _interrupted(each: Stage) -> str | None:
    """Why a run that was begun can go on: it did not finish, and the data is what it was begun with."""
    if each.verb != "train" or not (each.config.out / runs.RUN).is_file():
        return None
    record = runs.read(each.config.out)
    if record.status == "finished" or record.verb != "train":
        return None
    data = Path(each.config.data)
    if not is_prepared(data) or record.parents.get("data") != open_prepared(data).content:
        return None
    return f"it was interrupted ({'died' if record.status == 'running' else record.status})"


# ---------------------------------------------------------------------------------------------------------------
# Doing


def _check(
    all_stages: Sequence[Stage], decisions: Sequence[Decision], asked: Asked, works: Callable[[str], Work]
) -> None:
    """Every fault that can be found before the first stage starts."""
    for number, (each, decision) in enumerate(zip(all_stages, decisions, strict=True)):
        if decision.record is not None:
            continue
        if not decision.pending:
            works(each.verb).check(_config(each, decision), _asked(decision, asked))
            continue
        place = stage.output(each.verb, each.config)
        for path in stage.inputs(each.verb, each.config):
            if (
                not path.exists()
                and not has_magic(str(path))
                and not any(_reads(path, other) for other in all_stages[:number])
            ):
                raise UsageError(f"no such file or folder: {path}", where=each.verb, hint="no stage before makes it")
        works(each.verb).foresee(each.config)
        if place is not None:
            whole.refuse_existing(place, force=decision.status != "refused")
            whole.check_writable(place)


def _do(each: Stage, decision: Decision, asked: Asked, work: Work) -> dict[str, Any]:
    config, asked = _config(each, decision), _asked(decision, asked)
    plan = work.check(config, asked)
    place = stage.output(each.verb, each.config)
    if place is None:
        return work.do(config, plan, asked)
    with stage.claimed(place):
        document = work.do(config, plan, asked)
        stage.write_record(each.verb, each.config, decision.inputs, place, document)
    return document


def _asked(decision: Decision, asked: Asked) -> Asked:
    return replace(asked, force=asked.force or decision.owned, resume=decision.status == "resumes")


def _config(each: Stage, decision: Decision) -> Spec:
    """The settings of a stage; a run that goes on has those it was begun with underneath."""
    if decision.status != "resumes":
        config: Spec = each.config
        return config
    from llmctl.workflows.train.resume import check_same

    recorded = configuration.read_recipe(each.config.out / "config.yaml").get("train") or {}
    check_same(recorded, each.block)
    return configuration.validate(SPECS["train"], configuration.combine(SPECS["train"], [recorded, each.block]))
