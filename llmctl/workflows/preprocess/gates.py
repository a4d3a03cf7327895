"""Gates on the account of records: shares of those read, or counts; their reports for other tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmctl import reports
from llmctl.data.cleaning.filters.spec import FILTERS
from llmctl.errors import ConfigError, Failure, Fault, GateError
from llmctl.gates import GateResult, Number, is_share
from llmctl.registry import near
from llmctl.types import EventSink
from llmctl.workflows.preprocess.spec import PreprocessConfig

VERB: Final = "preprocess"
ALWAYS: Final = (
    "read", "kept", "dropped", "rejected", "empty", "too_short", "too_long", "not_in_loss", "duplicate", "bad_record"
)  # fmt: skip
"""Counts that every run has."""
NEAR: Final = ("near_duplicate", "leakage")
"""Counts of a run with `dedup.near`."""
READ: Final = ("inputs", "source_file", "target_file", "decontaminate")
"""Settings that name what is read."""


def check_gates(config: PreprocessConfig) -> None:
    """Raise `ConfigError` for a gate on something that these settings do not count."""
    faults = []
    on = [row for row in FILTERS if getattr(config, row.setting) != row.off]
    counted = [*ALWAYS, *(reason for row in on for reason in row.reasons)]
    counted += NEAR if getattr(config.dedup, "near", None) is not None else ()
    for gate in config.require:
        if gate.name in counted or (gate.name.startswith("pii.") and config.pii != "off"):
            continue
        setting = "dedup.near" if gate.name in NEAR else gate.name.split(".")[0] if _filter_of(gate.name) else None
        hint = f"it is counted with {_example(setting)}" if setting else near(gate.name, counted)
        faults.append(
            Fault("require", f"nothing is counted as {gate.name!r}", hint or f"counted: {', '.join(counted)}")
        )
    if faults:
        raise ConfigError(faults)


def _filter_of(name: str) -> bool:
    return any(name.split(".")[0] == row.setting for row in FILTERS)


def _example(setting: str) -> str:
    example = {"dedup.near": "0.8", "pii": "keep", "languages": "[en, zh]", "decontaminate": "[FILE]", "quality": "web"}
    return f"--set '{setting}={example[setting]}'"


def counts_of(records: Mapping[str, Any], found: Mapping[str, int]) -> dict[str, int]:
    """Every count by name: of the account, and of kept records in which a filter found something.

    A filter counts a record under one name, whether it drops it or finds something in one that is kept.
    """
    dropped: Mapping[str, int] = records["dropped"]
    whole = {
        "read": records["read"],
        "kept": records["kept"],
        "dropped": sum(dropped.values()),
        "rejected": records["rejected"],
    }
    names = dict.fromkeys((*dropped, *found))
    return whole | {name: dropped.get(name, 0) + found.get(name, 0) for name in names}


def checked(config: PreprocessConfig, counts: Mapping[str, int]) -> list[GateResult]:
    """Whether each gate is met. What was never seen counts 0."""
    return [
        gate.check(
            [
                Number(
                    gate.name,
                    counts.get(gate.name, 0) / (max(counts["read"], 1) if is_share(gate) else 1),
                    counts["read"],
                )
            ]
        )
        for gate in config.require
    ]


def rows_of(gates: Iterable[GateResult]) -> list[dict[str, Any]]:
    """The gates in the JSON document."""
    return [{"require": gate.require, "met": gate.met, "value": gate.value, "why": gate.why} for gate in gates]


def missed(document: Mapping[str, Any]) -> GateError | None:
    """The error for gates that are not met, from the document; the folder is kept nevertheless."""
    text = [gate["why"] for gate in document.get("gates", ()) if not gate["met"]]
    return GateError("a gate is not met: " + "; ".join(text)) if text else None


def report(
    config: PreprocessConfig,
    gates: Sequence[GateResult],
    document: Mapping[str, Any],
    emit: EventSink,
) -> GateError | None:
    """Write the reports that the settings name; return the error for gates that are not met."""
    if not gates and config.junit is None and config.markdown is None and not reports.annotated():
        return None
    from llmctl.metrics.report import annotations_of, junit_of_counts, markdown_of_counts

    counts = counts_of(document["records"], document.get("found", {}))
    if config.junit is not None:
        reports.write(config.junit, junit_of_counts(counts, gates, VERB))
    if config.markdown is not None:
        reports.write(config.markdown, markdown_of_counts(counts, gates))
    notice = f"{counts['kept']:,} of {counts['read']:,} records kept"
    return reports.finish(gates, annotations_of(gates, notice, VERB), document, emit)


def failed(settings: Mapping[str, Any], failure: Failure, emit: EventSink, *, force: bool) -> None:
    """Report an error that ended the command before its gates were checked."""
    reports.failed(VERB, settings, failure, emit, done="records", inputs=READ, force=force)
