"""The verb `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.readable import from_here, number
from llmctl.settings import places
from llmctl.training import world
from llmctl.verbs import LOADING, Context, Output, Table, Verb
from llmctl.workflows.compare.spec import CompareConfig

if TYPE_CHECKING:
    from llmctl.workflows.compare.run import CompareResult


class Compare(Verb[CompareConfig]):
    name = "compare"
    spec = CompareConfig
    positional = "out"
    switches = {"resume": "continue an interrupted comparison: llmctl compare --resume DIR"}
    resumes = "comparison"
    examples = (
        "llmctl compare --data data/poems --models rnn,lstm,attention,gpt2,llama --max-tokens 2M --out compare/poems",
        "llmctl compare --resume compare/poems",
    )

    def starts(self, config: CompareConfig) -> str | None:
        return LOADING

    def reads(self, config: CompareConfig) -> list[Path]:
        return places(config.data, *config.models)

    def check_same(self, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        from llmctl.workflows.compare import checks

        checks.check_same(recorded, wanted)

    def check_recorded(self, out: Path, recorded: Mapping[str, Any]) -> None:
        from llmctl.workflows.compare import checks

        checks.check_recorded(out, recorded)

    def check(self, config: CompareConfig, context: Context) -> Any:
        world.refuse(self.name)
        from llmctl.workflows.compare import checks

        return checks.preflight(
            config, force=context.force, offline=context.offline, resume=context.resume, emit=context.emit
        )

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.compare import run

        result = run.compare(plan, context.emit, force=context.force)
        return Output(result.document, lambda: _lines(result), run.refusal(result) if result.failed else None)


def _lines(result: CompareResult) -> list[str | Table]:
    from llmctl.workflows.compare import report

    headings = report.headings(result.document)
    table = Table(headings, report.cells(result.document, result.titles), range(1, len(headings)), split=True)
    place = f"{from_here(result.document['out'])}/compare.md  ({number(result.document['seconds'])} s)"
    return [table, *report.remarks(result.document, result.titles), place]
