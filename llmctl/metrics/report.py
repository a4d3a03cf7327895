"""Scores and gates in formats for other tools: JUnit XML, Markdown tables, GitHub annotations. Pure functions.

Other numbers than scores that gates can refer to, such as counts of records, are reported in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree

from llmctl.errors import Failure
from llmctl.gates import GateResult
from llmctl.types import Score

VERB: Final = "eval"
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, even escaped."""


def junit(scores: Sequence[Score], gates: Sequence[GateResult], verb: str = VERB) -> str:
    """JUnit XML: one test case per score and per gate; a gate that is not met is a failure."""
    details = [
        f"value: {score.value!r}\nscale: {score.scale}\nsignature: {score.signature}\nn: {score.n}\n"
        f"interval: {_bounds(score, exact=True) or 'none'}"
        for score in scores
    ]
    return _junit("score", [(score.metric, text) for score, text in zip(scores, details, strict=True)], gates, verb)


def junit_of_counts(counts: Mapping[str, int], gates: Sequence[GateResult], verb: str) -> str:
    """The same of counts by name."""
    return _junit("count", [(name, f"value: {count}") for name, count in counts.items()], gates, verb)


def _junit(kind: str, values: Sequence[tuple[str, str]], gates: Sequence[GateResult], verb: str) -> str:
    failures = str(sum(not gate.met for gate in gates))
    counts = {"name": f"llmctl {verb}", "tests": str(len(values) + len(gates)), "failures": failures, "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", counts | {"skipped": "0"})
    for name, text in values:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"llmctl.{kind}", "name": _xml(name)})
        ElementTree.SubElement(case, "system-out").text = _xml(text)
    for gate in gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "llmctl.gate", "name": _xml(gate.require)})
        if not gate.met:
            ElementTree.SubElement(case, "failure", {"type": "GateNotMet", "message": _xml(gate.why)})
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(gate.why)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def markdown(scores: Sequence[Score], gates: Sequence[GateResult]) -> str:
    """A table of scores and, if there are gates, a table of gates."""
    lines = ["| metric | value | interval | n | scale | signature |", "|---|---:|---|---:|---|---|"]
    lines += [
        f"| {escaped(score.metric)} | {shown(score)} | {_bounds(score)} | {score.n} | {escaped(score.scale)} "
        f"| {_code(score.signature)} |"
        for score in scores
    ]
    return "\n".join([*lines, *_gate_table(gates)]) + "\n"


def markdown_of_counts(counts: Mapping[str, int], gates: Sequence[GateResult]) -> str:
    """The same of counts by name."""
    lines = ["| records | count |", "|---|---:|"]
    lines += [f"| {escaped(name)} | {count:,} |" for name, count in counts.items()]
    return "\n".join([*lines, *_gate_table(gates)]) + "\n"


def _gate_table(gates: Sequence[GateResult]) -> list[str]:
    if not gates:
        return []
    rows = [f"| {_code(gate.require)} | {'yes' if gate.met else '**no**'} | {escaped(gate.why)} |" for gate in gates]
    return ["", "| gate | met | why |", "|---|---|---|", *rows]


def github_annotations(scores: Sequence[Score], gates: Sequence[GateResult]) -> str:
    """GitHub workflow commands: an error for each gate that is not met, and one notice with all scores.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    return annotations_of(gates, ", ".join(f"{score.metric} {shown(score)}" for score in scores), VERB)


def annotations_of(gates: Sequence[GateResult], notice: str, verb: str) -> str:
    """GitHub workflow commands: an error for each gate that is not met, and a notice unless it is empty."""
    lines = [
        f"::error title={_property(f'gate not met: {gate.require}')}::{_message(gate.why)}"
        for gate in gates
        if not gate.met
    ]
    if notice:
        # A single notice, because GitHub shows only ten per step.
        lines.append(f"::notice title={_property(f'llmctl {verb}')}::{_message(notice)}")
    return "".join(f"{line}\n" for line in lines)


def junit_error(failure: Failure, verb: str = VERB) -> str:
    """JUnit XML of a command that ended before it had scores: one test case with an error."""
    counts = {"name": f"llmctl {verb}", "tests": "1", "failures": "0", "errors": "1"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", counts | {"skipped": "0"})
    case = ElementTree.SubElement(suite, "testcase", {"classname": f"llmctl.{verb}", "name": verb})
    about = {"type": failure.kind, "message": _xml(failure.message)}
    ElementTree.SubElement(case, "error", about).text = _xml("\n".join(_failure_lines(failure)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def markdown_error(failure: Failure) -> str:
    """A table with the error that ended the command."""
    message, *more = _failure_lines(failure)
    cells = " ".join(map(escaped, (message, *more[:-1])))
    return f"| error | exit code |\n|---|---:|\n| {cells} | {failure.exit_code} |\n"


def github_error(failure: Failure, verb: str = VERB) -> str:
    """A GitHub workflow command with the error that ended the command."""
    title = _property(f"llmctl {verb}: exit code {failure.exit_code}")
    return f"::error title={title}::{_message(chr(10).join(_failure_lines(failure)[:-1]))}\n"


def _failure_lines(failure: Failure) -> list[str]:
    """Message, hint and exit code."""
    hint = [failure.hint] if failure.hint else []
    return [failure.message, *hint, f"exit code {failure.exit_code} ({failure.kind})"]


def shown(score: Score) -> str:
    """A value as usually published: two decimals on 0-100 scales and for perplexity, otherwise four."""
    return rounded(score.value, score.scale)


def rounded(value: float, scale: str) -> str:
    return f"{value:.2f}" if scale.startswith("0-100") or scale == "perplexity" else f"{value:.4f}"


def _bounds(score: Score, *, exact: bool = False) -> str:
    if not (ci := score.ci):
        return ""
    low, high = (repr(each) if exact else rounded(each, score.scale) for each in (ci.low, ci.high))
    drawn = f", {ci.method}, {ci.resamples} resamples, seed {ci.seed}" if exact else ""
    return f"{low} to {high} ({100 * ci.level:g}%{drawn})"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _code(text: str) -> str:
    """A code span in a table: the pipe must be escaped even there (GitHub Flavored Markdown, 4.10)."""
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ") + "`"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
