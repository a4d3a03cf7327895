"""The interface of a verb, used by the command line, by recipes and by other packages.

A verb is a row in `catalog.py` and a folder in `workflows/`. Its `stage.py` subclasses `Verb` and imports only the
spec, so that help, completion and config errors stay fast; each method imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

from llmctl.config import Spec
from llmctl.errors import ConfigError, Failure, Fault, IntegrityError, LlmctlError, UsageError
from llmctl.recipes import read_recipe
from llmctl.types import EventSink, null_sink

C = TypeVar("C", bound=Spec)
CONFIG = "config.yaml"
"""The file in an output folder that holds the resolved settings."""


LOADING: Final = "loading PyTorch"
"""The start of most verbs, which takes seconds."""


@dataclass(frozen=True, slots=True)
class Context:
    """How a verb is run, apart from its settings.

    `switches`: the verb's own switches that are on. `interactive`: standard input is a terminal, so it is not read.
    `stream`: receives generated text as it arrives; None if only the result is needed. `line`: prints a line of the result
    before the rest of it is there; None if the result is printed as a whole.
    """

    emit: EventSink = null_sink
    force: bool = False
    offline: bool = False
    switches: frozenset[str] = frozenset()
    interactive: bool = True
    stream: Callable[[str], None] | None = None
    line: Callable[[str], None] | None = None

    @property
    def resume(self) -> bool:
        return "resume" in self.switches

    @property
    def verify(self) -> bool:
        return "verify" in self.switches


class Table(NamedTuple):
    """A table for the terminal; columns are given by index.

    `right`: right-aligned. `names`: never truncated. `least`: dropped first on a narrow terminal, in this order.
    `split`: drop no column, split the table instead.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    right: Sequence[int] = ()
    names: Sequence[int] = (0,)
    least: Sequence[int] = ()
    split: bool = False


@dataclass(frozen=True, slots=True)
class DryRun:
    """The output of `--dry-run`: the resolved settings and the facts found by the checks.

    `shown` replaces the facts of the same names in the human-readable output. `refusal` is raised afterwards.
    """

    settings: Spec
    facts: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    refusal: LlmctlError | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a verb: the JSON document and the lines shown on the terminal.

    `refusal` is raised after the result is printed and sets the exit code: a gate that was not met, rows that failed.
    `then` is called after the result is printed and returns the exit code: a server runs until it is stopped.
    """

    document: Mapping[str, Any]
    lines: Callable[[], Iterable[str | Table]] = tuple
    refusal: LlmctlError | None = None
    silent: bool = False
    """Another process of the same work prints the result."""
    then: Callable[[], int] | None = None


class Plan(Protocol):
    """What the checks of a verb found. `config` is complete: what can be derived from the inputs is filled in.

    The plan of a verb that writes also has `to_dict()`, the facts that `--dry-run` shows.
    """

    @property
    def config(self) -> Spec: ...


class Verb(Generic[C]):
    """A command with settings. Subclasses declare inputs and outputs, check the settings and do the work."""

    name: ClassVar[str]
    spec: ClassVar[type[Spec]]
    positional: ClassVar[str | None] = None
    """The setting filled by positional arguments."""
    switches: ClassVar[Mapping[str, str]] = {}
    """Flags that are not settings, with their help. `resume` uses the recorded settings as defaults."""
    resumes: ClassVar[str] = ""
    """What `--resume` continues by its recorded settings: a run or a comparison."""
    writes: ClassVar[bool] = True
    """Whether it writes output, so that `--dry-run`, `--force` and `--offline` apply."""
    trains: ClassVar[bool] = False
    """Whether its output is a run, which later stages of a recipe can use as their model."""
    examples: ClassVar[Sequence[str]] = ()
    """Command lines shown at the end of the help."""

    def starts(self, config: C) -> str | None:
        """What a terminal shows until the first event, `LOADING` for a verb that imports torch; None shows nothing."""
        return None

    # -- a stage of a recipe ----------------------------------------------------------------------------------

    def reads(self, config: C) -> list[Path]:
        """The paths it reads."""
        return []

    def makes(self, config: C) -> Path | None:
        """The file or folder it creates; None if it only prints."""
        place: Path | None = getattr(config, "out", None)
        return place

    def repeatable(self, config: C) -> bool:
        """Whether the same settings and inputs give the same output; False if it reads standard input."""
        return True

    def interrupted(self, config: C) -> str | None:
        """Why interrupted work can resume; None if there is none."""
        return None

    def placed(self, config: C, recipe: str, runs: Sequence[Path]) -> C:
        """The settings as a stage of the recipe called `recipe`, which produces `runs`."""
        return config

    def check_early(self, config: C) -> None:
        """Raise the errors that can be found before the inputs exist."""

    def recorded(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recorded settings of work to be resumed, completed where an older version had no key for what it did."""
        return settings

    def check_same(self, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raise `ConfigError` if `wanted` changes a `recorded` setting that must stay the same on resume."""

    def check_recorded(self, out: Path, recorded: Mapping[str, Any]) -> None:
        """Raise `IntegrityError` if `recorded`, the settings in `out`/config.yaml, were edited since."""

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        """The result in a few lines."""
        return []

    def refusal(self, document: Mapping[str, Any]) -> LlmctlError | None:
        """The error that an existing output still implies, such as rejected records."""
        return None

    # -- the work ---------------------------------------------------------------------------------------------

    def check(self, config: C, context: Context) -> Plan:
        """Raise every error that can be found before slow work starts; return the plan that `run` takes."""
        raise NotImplementedError

    def dry_run(self, plan: Any, context: Context) -> DryRun:
        return DryRun(plan.config, plan.to_dict())

    def run(self, plan: Any, context: Context) -> Output:
        raise NotImplementedError

    def failed(self, settings: Mapping[str, Any], failure: Failure, context: Context) -> None:
        """Report an error that ended the command, for verbs that write reports for other tools.

        `settings`: as far as they could be read; they may be invalid.
        """


def recorded_settings(verb: Verb[Any], block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings that the work to be resumed was started with; `block` overrides them.

    None if nothing was started yet and `block` names the data. Raises `UsageError` if there is nothing to resume, and what
    `verb.check_same` raises.
    """
    if not isinstance(block.get("out"), str | os.PathLike):
        raise UsageError(f"--resume needs a {verb.resumes}", hint=f"llmctl {verb.name} --resume DIR")
    recorded = Path(block["out"]) / CONFIG
    if not recorded.is_file():
        if "data" not in block:
            raise UsageError(
                f"{block['out']} is not a {verb.resumes} that can be resumed",
                hint=f"pass the folder of a {verb.resumes}",
            )
        return None
    settings = read_recorded(verb, Path(block["out"]))
    verb.check_same(settings, block)
    return verb.recorded(settings)


def read_recorded(verb: Verb[Any], out: Path) -> Mapping[str, Any]:
    """The settings in `out`/config.yaml. Raises `IntegrityError` where they were damaged or edited."""
    path = out / CONFIG
    try:
        recipe = read_recipe(path)
        if recipe and verb.name not in recipe:
            raise UsageError(f"{out} is not a {verb.resumes}: its {CONFIG} is of {', '.join(recipe)}")
        settings: Mapping[str, Any] = recipe.get(verb.name) or {}
        if not isinstance(settings, Mapping):
            raise ConfigError([Fault(verb.name, "must be a mapping")])
    except ConfigError as error:
        raise IntegrityError(
            f"damaged or edited: {error.faults[0].problem}", where=str(path), hint="restore the file"
        ) from error
    verb.check_recorded(out, settings)
    return settings
