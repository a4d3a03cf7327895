"""What `preprocess` found in the data and did to it: counts for the manifest, and notes and warnings for a person."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from llmctl.data.cleaning.clean import is_invisible
from llmctl.data.cleaning.split import CONTRADICTORY, IN_SEVERAL_SPLITS, SEVERAL_ANSWERS
from llmctl.store.prepared import COUNTS_OF_CONTENT

if TYPE_CHECKING:
    from llmctl.workflows.preprocess.admission import Tally
    from llmctl.workflows.preprocess.outcome import ReadResult

FACTS: Final = ("cleaned", *COUNTS_OF_CONTENT)
"""Counts in the manifest and in the JSON document beside those of the records."""
LISTED: Final = 10
"""Most labels or fields that a message lists."""


def facts_of(
    read: ReadResult, tally: Tally, repeated_inputs: Mapping[str, int], labels: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Counts of records by what was changed, left out, not read, or found; empty ones are left out."""
    adapting = read.adapting
    cleaned = {"byte_order_marks": read.boms, "nul_characters": read.nul, **_sorted(tally.cleaned)}
    found = {
        "layouts": adapting.layouts,
        "changed": adapting.changed,
        "turns": adapting.turns,
        "unused": adapting.unused,
        "found": tally.found,
        "repeated_inputs": repeated_inputs,
        "label_counts": labels,
    }
    assert tuple(found) == COUNTS_OF_CONTENT
    return {"cleaned": cleaned} | {name: counts for name, each in found.items() if (counts := _sorted(each))}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def findings(
    notes: Iterable[str], split_by: str, facts: Mapping[str, Mapping[str, int]], labels: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """The kind (`note` or `warning`) and the text of each finding."""
    yield from (("note", text) for text in notes)
    if split_by == "files":
        yield (
            "note",
            "records keep the split that their files are named after; --set splits.from=content splits by content",
        )
    for name, count in facts.get("layouts", {}).items():
        yield "note", f"read {count:,} records in the layout: {name}"
    for name, count in facts.get("changed", {}).items():
        turns = facts.get("turns", {}).get(name)
        yield "note", f"{count:,} records have {name}" + (f" ({turns:,} turns)" if turns else "")
    cleaned = facts["cleaned"]
    if cleaned["byte_order_marks"] or cleaned["nul_characters"]:
        message = (
            f"removed {cleaned['byte_order_marks']:,} byte-order marks and {cleaned['nul_characters']:,} NUL characters"
        )
        yield "note", message
    if unused := facts.get("unused"):
        yield "note", f"fields that are not read: {listed(unused)}"
    repeated = facts.get("repeated_inputs", {})
    for key, text in (
        (CONTRADICTORY, "records repeat the input of an earlier one with another label"),
        (IN_SEVERAL_SPLITS, "records repeat an input that is in another split too, so scores on it say little"),
    ):
        if key in repeated:
            yield "warning", f"{repeated[key]:,} {text}"
    if several := repeated.get(SEVERAL_ANSWERS):
        yield "note", f"{several:,} records repeat the input of an earlier one with another answer"
    if len(labels) == 1:
        yield (
            "warning",
            f"every record of the train split has the label {next(iter(labels))!r}: there is nothing to learn",
        )
    for same in similar(labels):
        yield "warning", f"labels that differ in case or blanks alone: {', '.join(map(repr, same))}"


def listed(counts: Mapping[str, int]) -> str:
    """`date 30, source 12, …`, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = ", ".join(f"{name} {count:,}" for name, count in ranked[:LISTED])
    return shown + (f", … ({len(ranked):,} in all)" if len(ranked) > LISTED else "")


def similar(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that are equal but for case, blanks, width and characters that show nothing."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        shown = unicodedata.normalize("NFKC", label).casefold()
        groups["".join(each for each in shown if not is_invisible(each))].append(label)
    return [group for group in groups.values() if len(group) > 1]
