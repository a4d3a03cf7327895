"""A verb: the letters of the words of a file, one word a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.config import Spec, flag
from llmctl.errors import DataError
from llmctl.verbs import Context, Output, Table, Verb


class SpellConfig(Spec):
    """Spell words."""

    words: Path = flag(..., "a file with one word a line", panel="Main")
    out: Path = flag(..., "the JSON file to write", panel="Main")
    upper: bool = flag(False, "capital letters", panel="Main")


@dataclass(frozen=True)
class SpellPlan:
    """The words of the file."""

    config: SpellConfig
    words: list[str]

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        return {"words": len(self.words)}


class Spell(Verb[SpellConfig]):
    name = "spell"
    spec = SpellConfig
    positional = "words"
    examples = ("llmctl spell words.txt --out spelled.json", "llmctl spell words.txt --out spelled.json --upper")

    def reads(self, config: SpellConfig) -> list[Path]:
        return [config.words]

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        return [f"{len(document['words'])} words: {document['out']}"]

    def check(self, config: SpellConfig, context: Context) -> SpellPlan:
        from llmctl.store import atomic

        atomic.refuse_existing(config.out, force=context.force)
        if not config.words.is_file():
            raise DataError(f"no such file: {config.words}")
        return SpellPlan(config, config.words.read_text().split())

    def run(self, plan: SpellPlan, context: Context) -> Output:
        from llmctl.store import atomic

        config = plan.config
        words = [" ".join(word.upper() if config.upper else word) for word in plan.words]
        atomic.write_text(config.out, json.dumps(words))
        document = {"words": words, "out": str(config.out)}
        return Output(document, lambda: [Table(("word", "letters"), list(zip(plan.words, words, strict=True)))])
