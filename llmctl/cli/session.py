"""One invocation of a verb: its process-wide options, progress reporting and output."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from llmctl.cli.render import ProgressReporter, readable
from llmctl.errors import EnvironmentFault, LlmctlError
from llmctl.types import Event, EventSink

if TYPE_CHECKING:
    from llmctl.config import Spec

S = TypeVar("S", bound="Spec")


@dataclass(frozen=True)
class Session:
    """The parsed command line. Results go to standard output, progress and warnings to standard error."""

    verb: str
    spec: type[Spec] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    recipes: tuple[Path, ...] = ()
    sets: tuple[str, ...] = ()
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """Settings that work to be resumed was started with; those given now override them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    force: bool = False
    offline: bool = False
    json: bool = False
    events: str | None = None
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"

    def config(self, spec: type[S]) -> S:
        """Load and validate the verb's configuration."""
        from llmctl import config

        return config.load(
            self.verb,
            spec,
            recipes=self.recipes,
            sets=self.sets,
            flags=self.flags,
            recorded=self.recorded,
            note=self.note,
        )

    def block(self) -> dict[str, Any]:
        """Merge the given settings without validating them."""
        from llmctl import config

        assert self.spec is not None
        return config.gather(self.verb, self.spec, recipes=self.recipes, sets=self.sets, flags=self.flags)

    @cached_property
    def reporter(self) -> ProgressReporter:
        return ProgressReporter(quiet=self.quiet, verbose=self.verbose, events=self.events)

    @property
    def emit(self) -> EventSink:
        return self.reporter

    def note(self, text: str) -> None:
        self.emit(Event("note", {"text": text}))

    def close(self) -> None:
        """Remove the progress bar, however the verb ended: a bar that stays hides the terminal's cursor."""
        if "reporter" in self.__dict__:
            self.reporter.close()

    def finish(self, document: Mapping[str, Any], show: Callable[[], None] | None = None) -> None:
        """Print the result: the JSON document, or what `show` prints."""
        self.reporter.finish()
        with self.printing():
            if self.json:
                write_document(self.verb, "ok", document)
            elif show is not None:
                show()

    def fail(self, error: LlmctlError, document: Mapping[str, Any], show: Callable[[], None]) -> NoReturn:
        """Print the result, then raise the error."""
        self.reporter.finish()
        error.document = document
        if not self.json:
            with self.printing():
                show()
        raise error

    @contextlib.contextmanager
    def printing(self) -> Iterator[None]:
        """Flush what the block prints, and report write errors, such as a full disk, as `EnvironmentFault`."""
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise EnvironmentFault(f"cannot write to standard output: {error.strerror}") from error

    def plan(
        self,
        settings: Spec,
        facts: Mapping[str, Any],
        shown: Mapping[str, Any] = MappingProxyType({}),
        refusal: LlmctlError | None = None,
    ) -> None:
        """Print the output of `--dry-run`, the resolved settings and the facts found, as YAML (JSON with `--json`).

        `shown` replaces the facts of the same names in the YAML. `refusal` is raised afterwards.
        """
        given = {self.verb: json_module.loads(settings.model_dump_json())}
        document = {"dry_run": True, **given, "plan": dict(facts)}

        def show() -> None:
            shown_document = {**given, "plan": {name: fact for name, fact in facts.items() if name not in shown}}
            print(to_yaml(readable(shown_document, exact=True)), end="")
            print(textwrap.indent(to_yaml(shown, lines=True), "  ") if shown else "", end="")

        if refusal is not None:
            self.fail(refusal, document, show)
        self.finish(document, show)


DOCUMENTS: Final[list[str]] = []
"""The verb whose document this command has printed."""


def write_document(verb: str, status: str, fields: Mapping[str, Any]) -> None:
    """Write the JSON document of this command to standard output. There is exactly one: nothing follows it, not even the
    error that ends a server whose address it gave."""
    if DOCUMENTS:
        return
    DOCUMENTS.append(verb)
    document = {"schema": f"llmctl.{verb}/1", "status": status, **fields}
    sys.stdout.write(json_module.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()


def to_yaml(value: Mapping[str, Any], *, lines: bool = False) -> str:
    """Format as YAML: unsorted, Unicode unescaped, small mappings on one line or, with `lines`, one entry per line."""
    import yaml

    flow, width = (False, 10_000) if lines else (None, 100)
    return yaml.safe_dump(dict(value), allow_unicode=True, sort_keys=False, default_flow_style=flow, width=width)
