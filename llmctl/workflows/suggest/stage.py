"""The verb `suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmctl.readable import number
from llmctl.settings import places
from llmctl.verbs import Context, Output, Plan, Table, Verb
from llmctl.workflows.suggest.spec import SuggestConfig


class Suggest(Verb[SuggestConfig]):
    name = "suggest"
    spec = SuggestConfig
    writes = False
    examples = (
        "llmctl suggest --task translation",
        "llmctl suggest --data data/poems --memory 8GiB",
    )

    def reads(self, config: SuggestConfig) -> list[Path]:
        return places(config.data)

    def check(self, config: SuggestConfig, context: Context) -> Plan:
        from llmctl.workflows.suggest.run import preflight

        return preflight(config)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.suggest.run import suggest

        document = suggest(plan)

        def lines() -> list[str | Table]:
            from llmctl.workflows.train.forecast import gib

            text = f", {document['tokens']:,} training tokens" if document["tokens"] else ""
            rows = [
                (
                    str(each["rank"]),
                    each["model"],
                    number(each["parameters"]),
                    gib(each["memory_bytes"]),
                    "; ".join(each["reasons"]),
                )
                for each in document["suggestions"]
            ]
            table = Table(("", "model", "parameters", "memory", "reasons"), rows, (0, 2, 3), (1,), (2, 3))
            return [f"{document['task']} in {gib(document['memory_bytes'])}{text}", "", table]

        return Output(document, lines)
