"""Signatures: read, extended, written."""

from __future__ import annotations

import pytest

from llmctl.metrics.parse import parse_metric
from llmctl.metrics.scoring import score_answers
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import IntervalSpec
from llmctl.types import Answer


@pytest.mark.parametrize(
    "text", ["per:token", "nrefs:var|case:lc|tok:13a|smooth:add-k[1.00]|version:2.5.1", "lang:a:b"]
)
def test_signatures_round_trip_through_text(text: str) -> None:
    assert str(Signature.read(text)) == text


def test_new_facts_are_appended_and_known_ones_replaced_in_place() -> None:
    one = Signature.read("nrefs:1|tok:13a")
    assert str(one.with_(window="64", tok="zh")) == "nrefs:1|tok:zh|window:64"
    assert str(one) == "nrefs:1|tok:13a"


def test_facts_are_added_to_scores_of_the_matching_output_type() -> None:
    answers = [Answer("1", "a cat", ("a cat",), logprob=-3.0, tokens=2, bytes=5)]
    asked = [parse_metric(name) for name in ("exact_match", "perplexity", "bits_per_byte")]
    facts = {"likelihood": {"tok": "12345678", "window": "64"}, "text": {"choice": "calibrated"}}
    scores = score_answers(asked, answers, IntervalSpec(resamples=0), 0, facts).scores
    assert [score.signature for score in scores] == [
        "nrefs:1|case:lc|punct:removed|articles:removed|tok:blank|def:squad-2.0|choice:calibrated",
        "per:token|tok:12345678|window:64",
        "per:byte|encoding:utf-8|tok:12345678|window:64",
    ]
