"""The verb `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmctl.settings import VERIFY, VERIFY_HELP, places
from llmctl.verbs import LOADING, Context, Output, Verb
from llmctl.workflows.serve.spec import ServeConfig


class Serve(Verb[ServeConfig]):
    name = "serve"
    spec = ServeConfig
    switches = {VERIFY: VERIFY_HELP}
    examples = (
        "llmctl serve --model runs/poems",
        "llmctl serve --model runs/chat --port 0 --max-batch 32",
        "llmctl serve --model runs/en-zh --host 0.0.0.0 --api-key-file keys.txt",
    )

    def starts(self, config: ServeConfig) -> str | None:
        return LOADING

    def reads(self, config: ServeConfig) -> list[Path]:
        return places(config.model, config.api_key_file)

    def check(self, config: ServeConfig, context: Context) -> Any:
        from llmctl.workflows.serve import checks

        return checks.preflight(config, offline=context.offline, verify=context.verify, emit=context.emit)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.serve import run

        return run.serve(plan, context.emit)
