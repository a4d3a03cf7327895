"""The verb `export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import GateError, LlmctlError
from llmctl.readable import number, quoted
from llmctl.settings import places
from llmctl.verbs import LOADING, Context, Output, Table, Verb
from llmctl.workflows.export.spec import ExportConfig


class ExportModel(Verb[ExportConfig]):
    name = "export"
    spec = ExportConfig
    positional = "model"
    examples = (
        "llmctl export runs/chat --to gguf --out exports/chat --quantize q8_0",
        "llmctl export runs/en-zh --to ctranslate2 --out exports/en-zh --quantize int8",
    )

    def starts(self, config: ExportConfig) -> str | None:
        return LOADING

    def reads(self, config: ExportConfig) -> list[Path]:
        return places(config.model, config.base)

    def refusal(self, document: Mapping[str, Any]) -> LlmctlError | None:
        failed = [check["what"] for check in document["checks"] if not check["met"]]
        if not failed:
            return None
        return GateError(
            f"the export does not answer as the model does: {', '.join(failed)}",
            hint="measurements and tolerances are in its export.json",
        )

    def check(self, config: ExportConfig, context: Context) -> Any:
        from llmctl.workflows.export import run

        return run.preflight(config, force=context.force, offline=context.offline, emit=context.emit)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.export import run

        document = run.export(plan, context.emit, force=context.force)
        return Output(document, lambda: _lines(document), self.refusal(document))


def _lines(document: Mapping[str, Any]) -> list[str | Table]:
    rows = [
        (
            check["what"],
            number(check["measured"]),
            number(check["tolerance"]),
            check["unit"],
            "yes" if check["met"] else "NO",
        )
        for check in document["checks"]
    ]
    found: list[str | Table] = []
    if rows:
        found.append(Table(("check", "measured", "tolerance", "unit", "met"), rows, (1, 2)))
    size, seconds = number(document["size_bytes"]), number(document["seconds"])
    found.append(f"{document['out']}: {document['format']} {document['quantize']}, {size} bytes in {seconds} s")
    if document["format"] == "gguf":
        found.append(f"run it: ollama create NAME -f {quoted(Path(document['out']) / 'Modelfile')}")
    return found
