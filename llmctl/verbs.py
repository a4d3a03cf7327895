"""What a verb is. The command line, recipes and packages know a verb by this alone.

A verb is a row in `catalog.py` and a folder in `workflows/`. Its `stage.py` subclasses `Verb`: importing it costs a spec
and no more, so help, completion and config errors stay fast; every method imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from llmctl.config import Spec, read_recipe
from llmctl.errors import LlmctlError, UsageError
from llmctl.types import EventSink, null_sink

C = TypeVar("C", bound=Spec)


@dataclass(frozen=True, slots=True)
class Context:
    """How a verb is run, beside its settings.

    `switches`: those of the verb's own that are on. `interactive`: a person may be at standard input, so it is not read.
    `stream`: where a piece of text is shown as soon as it is there; None where only the result counts.
    """

    emit: EventSink = null_sink
    force: bool = False
    offline: bool = False
    switches: frozenset[str] = frozenset()
    interactive: bool = True
    stream: Callable[[str], None] | None = None

    @property
    def resume(self) -> bool:
        return "resume" in self.switches


class Table(NamedTuple):
    """Rows for a person. `right`: columns of numbers; `names`: columns never cut; `least`: columns left out first on a
    narrow terminal; `split`: none is left out, several tables are made of one."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    right: Sequence[int] = ()
    names: Sequence[int] = (0,)
    least: Sequence[int] = ()
    split: bool = False


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `--dry-run` shows: the resolved settings and what was found.

    `shown` stands in the place of the facts of the same names where a person reads. `refusal` is raised afterwards.
    """

    settings: Spec
    facts: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    refusal: LlmctlError | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a verb came to: the JSON document, and what a person sees of it.

    `refusal` ends the verb with its exit code after the result was given: a gate that is not met, rows that failed.
    """

    document: Mapping[str, Any]
    lines: Callable[[], Iterable[str | Table]] = tuple
    refusal: LlmctlError | None = None


class Verb(Generic[C]):
    """A command with settings. Subclasses say what it reads and makes, check it, and do it."""

    name: ClassVar[str]
    spec: ClassVar[type[Spec]]
    positional: ClassVar[str | None] = None
    """The setting that words without a flag go to."""
    switches: ClassVar[Mapping[str, str]] = {}
    """Flags that are no settings, with their help. `resume` puts the recorded settings under the new ones."""
    resumes: ClassVar[str] = ""
    """What `--resume` continues: a run, a comparison."""
    writes: ClassVar[bool] = True
    """Whether it makes something, so that `--dry-run`, `--force` and `--offline` mean something."""
    trains: ClassVar[bool] = False
    """Whether its output is a run, so that later stages of a recipe may name it as their model."""
    examples: ClassVar[Sequence[str]] = ()
    """Command lines shown at the end of its help."""

    # -- a stage of a recipe ----------------------------------------------------------------------------------

    def reads(self, config: C) -> list[Path]:
        """The places on disk that it reads."""
        return []

    def makes(self, config: C) -> Path | None:
        """The folder or file that it makes; None where it only shows something."""
        place: Path | None = getattr(config, "out", None)
        return place

    def repeatable(self, config: C) -> bool:
        """Whether the same settings and inputs give the same output: not where standard input is read."""
        return True

    def interrupted(self, config: C) -> str | None:
        """Why work that stopped halfway can go on; None where there is none."""
        return None

    def placed(self, config: C, recipe: str, runs: Sequence[Path]) -> C:
        """The settings as a stage of the recipe of that name, which makes `runs`."""
        return config

    def check_early(self, config: C) -> None:
        """Raise the errors that can be found while an input is yet to be made."""

    def check_same(self, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where resuming with `wanted` would make something else of what was `recorded`."""

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        """What it came to, in a line or a few."""
        return []

    def refusal(self, document: Mapping[str, Any]) -> LlmctlError | None:
        """The error that an output made earlier still stands for: records that were rejected."""
        return None

    # -- the work ---------------------------------------------------------------------------------------------

    def check(self, config: C, context: Context) -> Any:
        """Raise every error that can be found before anything slow; returns what was found, for `run`."""
        raise NotImplementedError

    def dry_run(self, config: C, plan: Any, context: Context) -> DryRun:
        return DryRun(config, plan.to_dict())

    def run(self, config: C, plan: Any, context: Context) -> Output:
        raise NotImplementedError


def recorded_settings(verb: Verb[Any], block: Mapping[str, Any]) -> Path | None:
    """The file with the settings that the work was begun with, to be laid under `block`, the settings of resuming it.

    None where nothing was begun yet and `block` names the data. Raises `UsageError` where there is nothing to resume, and
    what `verb.check_same` does.
    """
    if not isinstance(block.get("out"), str | os.PathLike):
        raise UsageError(f"--resume needs to know which {verb.resumes}", hint=f"llmctl {verb.name} --resume DIR")
    recorded = Path(block["out"]) / "config.yaml"
    if not recorded.is_file():
        if "data" not in block:
            raise UsageError(
                f"{block['out']} is no {verb.resumes} that can continue", hint=f"name the folder of a {verb.resumes}"
            )
        return None
    verb.check_same(read_recipe(recorded).get(verb.name) or {}, block)
    return recorded
