"""Scores and gates as the tools of others read them."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from llmctl.gates import GateResult
from llmctl.metrics.report import github_annotations, junit, markdown
from llmctl.types import Interval, Score

CI = Interval(0.95, 27.125, 29.5, "percentile bootstrap", 1000, 0)
SCORES = [
    Score("bleu", 28.123456789, "0-100", "nrefs:1|tok:13a", 200, ci=CI),
    Score("rougeL", 0.51239, "0-1", "nrefs:1", 200),
    Score("perplexity", math.nan, "perplexity", "per:token", 0, higher_is_better=False),
]
GATES = [
    GateResult("bleu>=20", True, 28.123456789, "bleu is 28.1235, >= 20"),
    GateResult("rougeL>=0.6", False, 0.51239, "rougeL is 0.51239, not >= 0.6"),
]


def test_junit_has_a_case_for_each_score_and_gate_and_a_failure_for_each_unmet_gate() -> None:
    root = ElementTree.fromstring(junit(SCORES, GATES))
    (suite,) = root
    assert (root.tag, suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuites", "testsuite", "5", "1")
    names = [(case.get("classname"), case.get("name")) for case in suite]
    assert names[0] == ("llmctl.score", "bleu")
    assert names[3:] == [("llmctl.gate", "bleu>=20"), ("llmctl.gate", "rougeL>=0.6")]
    failed = {case.get("name"): failure.get("message") for case in suite for failure in case.iter("failure")}
    assert failed == {"rougeL>=0.6": "rougeL is 0.51239, not >= 0.6"}
    assert "value: 28.123456789" in (suite[0][0].text or "")


def test_junit_holds_only_what_xml_can_hold() -> None:
    odd = Score("a\x00b<&\ud800", 1.0, "0-1", "s", 1)
    (case,) = ElementTree.fromstring(junit([odd], []))[0]
    assert case.get("name") == "a\ufffdb<&\ufffd"


def test_markdown() -> None:
    assert markdown(SCORES, GATES) == (
        "| metric | value | interval | n | scale | signature |\n"
        "|---|---:|---|---:|---|---|\n"
        "| bleu | 28.12 | 27.12 to 29.50 (95%) | 200 | 0-100 | `nrefs:1\\|tok:13a` |\n"
        "| rougeL | 0.5124 |  | 200 | 0-1 | `nrefs:1` |\n"
        "| perplexity | nan |  | 0 | perplexity | `per:token` |\n"
        "\n"
        "| gate | met | why |\n"
        "|---|---|---|\n"
        "| `bleu>=20` | yes | bleu is 28.1235, >= 20 |\n"
        "| `rougeL>=0.6` | **no** | rougeL is 0.51239, not >= 0.6 |\n"
    )
    assert "gate" not in markdown(SCORES, [])


def test_annotations_name_every_unmet_gate_and_escape_what_github_would_misread() -> None:
    assert github_annotations(SCORES, GATES) == (
        "::error title=gate not met%3A rougeL>=0.6::rougeL is 0.51239, not >= 0.6\n"
        "::notice title=llmctl eval::bleu 28.12, rougeL 0.5124, perplexity nan\n"
    )
    odd = GateResult("bleu>=baseline, 1", False, None, "50% of\nit")
    assert github_annotations([], [odd]) == "::error title=gate not met%3A bleu>=baseline%2C 1::50%25 of%0Ait\n"
