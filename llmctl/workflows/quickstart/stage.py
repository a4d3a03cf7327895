"""The verb `quickstart`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.readable import number
from llmctl.training import world
from llmctl.verbs import Context, Output, Plan, Table, Verb
from llmctl.workflows.quickstart.spec import QuickstartConfig


class Quickstart(Verb[QuickstartConfig]):
    name = "quickstart"
    spec = QuickstartConfig
    examples = ("llmctl quickstart", "llmctl quickstart --out first --seed 1 --json")

    def starts(self, config: QuickstartConfig) -> str | None:
        return "starting"

    def check(self, config: QuickstartConfig, context: Context) -> Plan:
        world.refuse(self.name)
        from llmctl.workflows.quickstart import run

        return run.preflight(config, force=context.force)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.quickstart import run

        document = run.quickstart(plan, context.emit, force=context.force).document()
        return Output(document, lambda: _lines(document))


def _lines(document: Mapping[str, Any]) -> list[str | Table]:
    rows = [(row["metric"], number(row["value"]), row["what"]) for row in (*document["scores"], *document["baselines"])]
    found: list[str | Table] = [Table(("metric", "value", "model"), sorted(rows, key=lambda row: row[0]), (1,)), ""]
    for sample in document["samples"]:
        if "reference" in sample:
            found.append(f"{sample['prompt']}  →  {sample['text']}   (reference: {sample['reference']})")
        else:
            found += ["", f"{sample['prompt']}{sample['text']}"]
    found += ["", f"{number(document['seconds'])} s; all output is in {document['out']}. Next:"]
    return [*found, *(f"  {command}" for command in document["next"])]
