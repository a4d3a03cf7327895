"""The verb `preprocess`."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.data.spec import STOPWORDS
from llmctl.errors import Failure, LlmctlError, UsageError
from llmctl.readable import number
from llmctl.settings import places
from llmctl.verbs import Context, DryRun, Output, Verb
from llmctl.workflows.preprocess.spec import PreprocessConfig

CLEANING: Final = ("newlines", "control", "unicode", "lowercase", "whitespace", "words", "label")
"""The rules of cleaning that `cleaned` counts records by."""


class Preprocess(Verb[PreprocessConfig]):
    name = "preprocess"
    spec = PreprocessConfig
    positional = "inputs"
    examples = (
        "llmctl preprocess tang-poems --out data/poems",
        "llmctl preprocess pairs.jsonl --task translation --columns source=en,target=zh --out data/en-zh",
        "llmctl preprocess corpus/*.txt.gz --task lm --document paragraph --vocab-size 16k --out data/corpus",
    )

    def starts(self, config: PreprocessConfig) -> str | None:
        return "starting"

    def reads(self, config: PreprocessConfig) -> list[Path]:
        from llmctl.data.reading.sources import STDIN, find_sources

        missing = [word for word in config.inputs if not _matches(word) and registry.looks_like_path(word)]
        existing = [word for word in config.inputs if word not in (*missing, STDIN)]
        found = [path for source in (find_sources(existing) if existing else ()) for path in source.paths]
        lists = [Path(name).expanduser() for name in config.clean.stopwords if name not in STOPWORDS]
        named = places(config.source_file, config.target_file, config.tokenizer, config.clean.dictionary)
        return [*found, *map(Path, missing), *named, *lists, *places(*config.decontaminate)]

    def repeatable(self, config: PreprocessConfig) -> bool:
        from llmctl.data.reading.sources import STDIN

        return STDIN not in config.inputs

    def check_early(self, config: PreprocessConfig) -> None:
        from llmctl.store import atomic

        atomic.refuse_same(config.out, self.reads(config))

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        records = document["records"]
        return [f"{records['kept']:,} of {records['read']:,} records: {document['out']}"]

    def refusal(self, document: Mapping[str, Any]) -> LlmctlError | None:
        from llmctl.workflows.preprocess import run

        return run.refusal(document)

    def check(self, config: PreprocessConfig, context: Context) -> Any:
        from llmctl.workflows.preprocess import checks

        if config.sample is not None and "dry-run" not in context.switches:
            raise UsageError(
                "--sample is for --dry-run", hint="to prepare a part of the data, cut the input: head -n 1000"
            )
        return checks.preflight(config, force=context.force, offline=context.offline)

    def dry_run(self, plan: Any, context: Context) -> DryRun:
        if plan.config.sample is None:
            return super().dry_run(plan, context)
        from llmctl.workflows.preprocess import sample

        found = sample.sample(plan, plan.config.sample)
        return DryRun(plan.config, {**plan.to_dict(), "sample": found}, {"sample": sample.lines(found)})

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.preprocess import gates, run

        result = run.preprocess(plan.config, plan, context.emit, force=context.force)
        document = result.document()
        refusal = gates.report(plan.config, result.gates, document, context.emit) or self.refusal(document)
        return Output(document, lambda: _lines(document), refusal)

    def failed(self, settings: Mapping[str, Any], failure: Failure, context: Context) -> None:
        from llmctl.workflows.preprocess import gates

        gates.failed(settings, failure, context.emit, force=context.force)


def _matches(word: str) -> bool:
    """Whether a path exists, or a glob matches anything."""
    return os.path.exists(word) or (glob.has_magic(word) and any(glob.iglob(word, recursive=True)))


def _details(document: Mapping[str, Any]) -> list[str]:
    """What was changed by cleaning, the labels of the train split, and the longest conversation."""
    from llmctl.workflows.preprocess.findings import listed

    cleaned = {name: count for name, count in document["cleaned"].items() if name in CLEANING}
    labels = document.get("label_counts", {})
    longest = max((each["longest"] for each in document.get("lengths", {}).values()), default=0)
    cut = f"  longest conversation: {longest:,} tokens; training leaves out the turns that exceed a model's context"
    return [
        *([cut] if longest and document.get("task") == "chat" else []),
        *([f"  records changed by cleaning: {listed(cleaned)}"] if cleaned else []),
        *([f"  labels of the train split: {listed(labels)}"] if labels else []),
    ]


def _lines(document: Mapping[str, Any]) -> list[str]:
    records, tokens = document["records"], document["tokens"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in records["dropped"].items() if count)
    splits = [
        f"  {split:<12}{count:>10,} records{tokens.get(split, 0):>14,} tokens"
        for split, count in document["splits"].items()
    ]
    return [
        f"{records['read']:,} records read, {records['kept']:,} kept"
        + (f", dropped: {dropped}" if dropped else "")
        + (f", {records['rejected']:,} rejected" if records["rejected"] else ""),
        *splits,
        *_details(document),
        *[f"{'met' if gate['met'] else 'NOT MET'}: {gate['require']}" for gate in document.get("gates", ())],
        f"{document['out']}  ({number(document['seconds'])} s)",
    ]
