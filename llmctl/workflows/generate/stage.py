"""The verb `generate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.readable import from_here
from llmctl.settings import VERIFY, VERIFY_HELP, places
from llmctl.verbs import LOADING, Context, Output, Verb
from llmctl.workflows.generate.spec import GenerateConfig


class Generate(Verb[GenerateConfig]):
    name = "generate"
    spec = GenerateConfig
    switches = {
        "resume": "resume an interrupted --output: its finished rows are kept",
        VERIFY: VERIFY_HELP,
    }
    examples = (
        "llmctl generate --model runs/poems --prompt 床前明月光 --temperature 0.8",
        "llmctl generate --model runs/en-zh --input test.jsonl --output answers.jsonl",
        "cat questions.txt | llmctl generate --model runs/qa --num-beams 4",
    )

    def starts(self, config: GenerateConfig) -> str | None:
        return LOADING

    def reads(self, config: GenerateConfig) -> list[Path]:
        return places(config.model, config.input)

    def makes(self, config: GenerateConfig) -> Path | None:
        return config.output

    def repeatable(self, config: GenerateConfig) -> bool:
        from llmctl.data.reading.sources import STDIN

        return config.input != STDIN

    def check_early(self, config: GenerateConfig) -> None:
        from llmctl.store import atomic

        if config.output is not None:
            atomic.refuse_same(config.output, places(config.input))

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        return [json.dumps(row, ensure_ascii=False) for row in document["completions"]]

    def check(self, config: GenerateConfig, context: Context) -> Any:
        from llmctl.workflows.generate import checks

        return checks.preflight(
            config,
            force=context.force,
            offline=context.offline,
            verify=context.verify,
            resume=context.resume,
            stdin_is_tty=context.interactive,
            emit=context.emit,
        )

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.generate import run

        config: GenerateConfig = plan.config
        result = run.generate(
            config, plan, context.emit, resume=context.resume, stream=context.stream, line=context.line
        )

        def lines() -> list[str]:
            if config.output is not None:
                count = result.tally.answers
                return [f"{count:,} answer{'s'[: count != 1]}: {from_here(str(config.output))}"]
            return [] if result.printed else [""] if result.streamed else list(result.lines())

        return Output(result.document(), lines, None if config.output else result.refusal())
