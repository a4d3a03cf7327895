"""The verb `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmctl.readable import number
from llmctl.settings import places
from llmctl.verbs import LOADING, Context, Output, Verb
from llmctl.workflows.merge.spec import MergeConfig


class Merge(Verb[MergeConfig]):
    name = "merge"
    spec = MergeConfig
    positional = "model"
    examples = (
        "llmctl merge runs/chat-lora --out models/chat",
        "llmctl merge model-q8_0.gguf --out models/model",
    )

    def starts(self, config: MergeConfig) -> str | None:
        return LOADING

    def reads(self, config: MergeConfig) -> list[Path]:
        return places(config.model, config.base)

    def check(self, config: MergeConfig, context: Context) -> Any:
        from llmctl.workflows.merge import run

        return run.preflight(config, force=context.force, offline=context.offline, emit=context.emit)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.merge import run

        document = run.merge(plan, context.emit, force=context.force)
        size, seconds = number(document["weights_bytes"]), number(document["seconds"])
        return Output(document, lambda: [f"{document['model']}: {size} bytes of {document['dtype']} in {seconds} s"])
