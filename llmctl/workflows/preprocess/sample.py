"""What `preprocess` would drop, by a sample of the records; nothing is written."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any, Final

from llmctl.data.cleaning.filters.pii import masked
from llmctl.data.cleaning.judge import DroppedRecord
from llmctl.data.reading.read import scan
from llmctl.errors import DataError
from llmctl.workflows.preprocess.checks import PreprocessPlan, split_files
from llmctl.workflows.preprocess.context import read_context_of
from llmctl.workflows.preprocess.reading import filters_of, judge_of

EXAMPLES: Final = 3
"""Dropped records shown of each reason."""
SHOWN: Final = 80
"""Characters of an example."""


def sample(plan: PreprocessPlan, records: int) -> dict[str, Any]:
    """`read`, `kept`, `dropped` and `found` of the first records of each input, `records` in all, and examples.

    What depends on all records is left out: near-duplicates, and the length in tokens. Raises `DataError` for a file
    that cannot be read.
    """
    config, task = plan.config, plan.task
    judge = judge_of(config, task, plan.clean, filters_of(config))
    dropped, found, seen = Counter[str](), Counter[str](), set[bytes]()
    examples: dict[str, list[dict[str, str]]] = {}
    read = 0
    for number, (source, split) in enumerate(zip(plan.sources, split_files(config, plan.sources), strict=True)):
        share = records // len(plan.sources) + (number < records % len(plan.sources))
        for item in islice(scan([source], read_context_of(config, task, plan.template)), share):
            read += 1
            try:
                judged = judge.judge(item, split)
            except DataError as error:
                judged = DroppedRecord("bad_record", error.message, origin=error.where or "")
            if not isinstance(judged, DroppedRecord) and config.dedup.exact:
                if judged.digest in seen:
                    judged = DroppedRecord("duplicate", "", judged.text(), judged.record.origin)
                else:
                    seen.add(judged.digest)
            if isinstance(judged, DroppedRecord):
                dropped[judged.reason] += 1
                shown = examples.setdefault(judged.reason, [])
                if len(shown) < EXAMPLES:
                    shown.append({"origin": judged.origin, "why": judged.why, "text": _short(judged.text)})
                continue
            for verdict in judged.found:
                found[verdict.reason] += 1
                found.update(verdict.counts)
    return {
        "read": read,
        "kept": read - dropped.total(),
        "dropped": dict(dropped.most_common()),
        "found": dict(sorted(found.items())),
        "examples": examples,
    }


def lines(document: dict[str, Any]) -> list[str]:
    """The sample for a person."""
    said = [f"{document['kept']:,} of {document['read']:,} records would be kept"]
    for reason, count in document["dropped"].items():
        said.append(f"{reason} {count:,} ({count / document['read']:.1%})")
        for each in document["examples"][reason]:
            said.append(f"  {each['origin']} {each['why']}: {each['text']}".replace("\n", "↵"))
    said += [f"found: {name} {count:,}" for name, count in document["found"].items()]
    return said


def _short(text: str) -> str:
    """The beginning of a text, without personal data."""
    text = masked(text[: 4 * SHOWN], Counter())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
