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
from llmctl.workflows import stages as stage
from llmctl.workflows.runs import flat
from llmctl.workflows.spec import SPECS
from llmctl.workflows.stages import STAGES, Asked, Work


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

    def row(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "status": self.status,
            "why": self.why,
            "seconds": round(self.seconds, 3),
            "document": dict(self.document),
        }


def load(recipes: Sequence[Path], *, sets: Sequence[str] = (), seed: int | None = None) -> list[Stage]:
    """The stages of a recipe, later files and `--set VERB.key=value` laid upon it.

    Raises `ConfigError` with the faults of every block at once, each path beginning with the verb.
    """
    blocks: dict[str, list[Any]] = {}
    faults: list[Fault] = []
    for path in recipes:
        for verb, block in configuration.read_recipe(path).items():
            if verb in STAGES:
                blocks.setdefault(verb, []).append(block or {})
            else:
                faults.append(Fault(verb, "is no stage of a recipe", f"llmctl {verb} --config {path}"))
    for text in sets:
        key, value = configuration.parse_set(text)
        verb, _, inner = key.partition(".")
        if verb in blocks:
            blocks[verb].append(configuration.nested(inner, value) if inner else value)
        elif verb in STAGES:
            faults.append(Fault(key, f"the recipe has no stage {verb}", f"its stages are {', '.join(blocks)}"))
        else:
            faults.append(Fault(key, f"{verb!r} is no stage", _meant(key, list(blocks))))
    found: list[Stage] = []
    for verb in (each for each in STAGES if each in blocks):
        if seed is not None:
            blocks[verb].append({"seed": seed})
        try:
            block = _with_run(configuration.combine(SPECS[verb], blocks[verb]), found)
            found.append(Stage(verb, block, configuration.validate(SPECS[verb], block, prefix=f"{verb}.")))
        except ConfigError as error:
            faults += [replace(each, path=each.path or verb) for each in error.faults]
    if faults:
        raise ConfigError(faults)
    if not found:
        raise UsageError(f"{recipes[0]} has no stage", hint=f"stages: {', '.join(STAGES)}")
    return [_with_place(each, found, recipes[0].stem) for each in found]


def _with_run(block: dict[str, Any], before: Sequence[Stage]) -> dict[str, Any]:
    """A model that is the run this recipe trains is a place, also while it is not there yet."""
    made = [str(each.block.get("out")) for each in before if each.verb == "train"]
    if block.get("model") in made and os.sep not in block["model"]:
        return {**block, "model": os.path.join(os.curdir, block["model"])}
    return block


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
        tell(Event("note", {"text": f"{each.verb}: {_now(settled.status)}, {settled.why}"}))
        place = stage.output(each.verb, each.config)
        if settled.record is not None and place is not None:
            document = stage.recalled(settled.record, place)
            outcomes.append(Outcome(each.verb, "skipped", settled.why, 0.0, document))
            continue
        try:
            document = _do(each, settled, asked, works(each.verb))
        except LlmctlError as error:
            failed = Outcome(each.verb, "failed", settled.why, time.monotonic() - started, error.document)
            error.document = document_of([*outcomes, failed])
            raise
        outcomes.append(Outcome(each.verb, "ran", settled.why, time.monotonic() - started, document))
    return outcomes


def document_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The contract's fields."""
    return {"stages": [outcome.row() for outcome in outcomes]}


def refusal_of(outcomes: Sequence[Outcome]) -> GateError | None:
    """Records that a stage rejected, also one that was skipped: the stages after it ran, but the gate is not met."""
    from llmctl.workflows.preprocess import refusal

    for each in outcomes:
        if each.verb == "preprocess" and (rejected := each.document.get("records", {}).get("rejected")):
            return refusal(each.document["out"], rejected)
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
    for each, decision in zip(all_stages, decisions, strict=True):
        if decision.record is not None:
            continue
        if not decision.pending:
            works(each.verb).check(_config(each, decision), _asked(decision, asked))
            continue
        place = stage.output(each.verb, each.config)
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
    from llmctl.workflows.train_checks import check_same

    recorded = configuration.read_recipe(each.config.out / "config.yaml").get("train") or {}
    check_same(recorded, each.block)
    return configuration.validate(SPECS["train"], configuration.combine(SPECS["train"], [recorded, each.block]))
