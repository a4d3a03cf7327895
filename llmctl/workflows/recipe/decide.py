"""Decide whether a stage runs, resumes, or is skipped because nothing has changed.

A stage is unchanged if its settings, the content of its inputs, the llmctl version and the content of its output match
its record. An output that matches its record is replaced without `--force`; any other existing output is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from llmctl import __version__
from llmctl.config import combine
from llmctl.settings import flat
from llmctl.workflows.recipe import record as stage
from llmctl.workflows.recipe.load import Stage


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a stage, and why.

    `owned`: the existing output was made by a stage, so it may be replaced. `refused`: it was made by something else.
    """

    status: Literal["runs", "resumes", "skipped", "refused"]
    why: str
    inputs: Mapping[str, str]
    owned: bool = False
    pending: bool = False
    """An earlier stage has yet to create an input; the decision is repeated when the stage is reached."""
    record: stage.StageRecord | None = None


def plan(all_stages: Sequence[Stage], *, force: bool = False) -> list[Decision]:
    """Decide for every stage, without writing anything."""
    decisions: list[Decision] = []
    for number, each in enumerate(all_stages):
        before = zip(all_stages[:number], decisions, strict=True)
        remade = [other for other, decision in before if decision.status != "skipped"]
        decisions.append(decide(each, remade, force=force))
    return decisions


def decide(each: Stage, remade: Sequence[Stage], *, force: bool) -> Decision:
    """Decide for one stage; `remade` are the earlier stages that run."""
    read, place = each.reads, each.makes
    before = next((other for other in remade if any(lies_in(path, other.makes) for path in read)), None)
    if before is not None:
        return _pending(each, before, force=force)
    hashes = {str(path): stage.fingerprint(path) for path in read}
    found = _found_at(place)
    if force:
        return Decision("runs", "--force", hashes, owned=found.owned)
    if place is None:
        return Decision("runs", "its output is not saved", hashes)
    if not found.there:
        return Decision("runs", f"{place} does not exist yet", hashes)
    if found.record is None or not found.intact:
        return _without_intact_output(each, place, found, hashes)
    why = "; ".join(_changes(each, found.record, hashes))
    if not why:
        return Decision("skipped", f"unchanged since {found.record.at}", hashes, owned=True, record=found.record)
    if found.owned:
        return Decision("runs", why, hashes, owned=True)
    return Decision("refused", f"{why}; {place / 'evals'} contains scores that `run` did not create", hashes)


class _Found(NamedTuple):
    """The existing output of a stage. `intact`: it matches its record. `owned`: a stage may replace it."""

    there: bool = False
    record: stage.StageRecord | None = None
    intact: bool = False
    owned: bool = False


def _found_at(place: Path | None) -> _Found:
    if place is None:
        return _Found()
    record = stage.read_record(place)
    intact = record is not None and stage.fingerprint(place) == record.output
    owned = (intact or stage.is_claimed(place)) and not stage.holds_others(place)
    return _Found(_is_there(place), record, intact, owned)


def _pending(each: Stage, before: Stage, *, force: bool) -> Decision:
    """A stage whose input does not exist yet: it runs, unless its output exists and was not made by a stage."""
    found = _found_at(each.makes)
    in_the_way = found.there and not found.owned and not force
    refused = in_the_way and not each.verb.interrupted(each.config)
    why = f"{before.verb.name} recreates its input"
    return Decision("refused" if refused else "runs", why, {}, owned=found.owned, pending=True)


def _without_intact_output(each: Stage, place: Path, found: _Found, hashes: Mapping[str, str]) -> Decision:
    """A stage whose existing output has no record, or has changed since it was recorded."""
    if why := each.verb.interrupted(each.config):
        return Decision("resumes", why, hashes)
    if found.owned:
        return Decision("runs", f"the stage that made {place} did not finish", hashes, owned=True)
    return Decision(
        "refused", f"{place} was {'changed after it was made' if found.record else 'not created by `run`'}", hashes
    )


def _is_there(place: Path) -> bool:
    """Whether there is something to replace; an empty folder does not count."""
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))


def lies_in(path: Path, made: Path | None) -> bool:
    """Whether `path` is the output of a stage or inside it."""
    return made is not None and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(made))


def _changes(each: Stage, record: stage.StageRecord, hashes: Mapping[str, str]) -> Iterator[str]:
    """Describe each difference from the record."""
    if record.verb != each.verb.name:
        yield f"it was made by {record.verb}"
    if record.llmctl != __version__:
        yield f"it was made by llmctl {record.llmctl}"
    if not each.verb.repeatable(each.config):
        yield "it reads standard input"
    before, after = flat(combine(each.verb.spec, [record.config])), flat(stage.settings(each.config))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        yield f"changed: {', '.join(changed)}"
    for path in {**record.inputs, **hashes}:
        if record.inputs.get(path) != hashes.get(path):
            yield f"the input {path} changed"
