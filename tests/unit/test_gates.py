"""Gates: what is understood, what is refused, when one is met; on scores and on plain numbers."""

from __future__ import annotations

import math

import pytest

from llmctl.errors import UsageError
from llmctl.gates import GateResult, Number, of_counts, of_scores, parse_gate
from llmctl.types import Score


def score(metric: str, value: float, *, n: int = 10, signature: str = "s") -> Score:
    return Score(metric, value, "0-100", signature, n)


def checked(gate: str, scores: list[Score], baseline: list[Score] | None = None) -> GateResult:
    return parse_gate(gate).check(of_scores(scores), None if baseline is None else of_scores(baseline))


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("bleu>=20", 20.0, True),
        ("bleu >= 20", 19.999999, False),
        ("bleu>20", 20.0, False),
        ("bleu<=60", 60.0, True),
        (" bleu < 1.2e1 ", 12.0, False),
        ("bleu>=-.5", 0.0, True),
        # What the last bits of a sum do to a score of exactly 50 or 100.
        ("bleu>=50", 49.99999999999999, True),
        ("bleu<=100", 100.00000000000004, True),
        ("bleu>50", 50.00000000000001, False),
        ("bleu<50", 49.99999999999999, False),
        ("bleu>=50", 49.999999, False),
    ],
)
def test_a_gate_on_a_number(text: str, value: float, met: bool) -> None:
    assert checked(text, [score("chrf", 0), score("bleu", value)]).met is met


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("bleu>=baseline", 30.0, True),
        ("bleu>baseline", 30.0, False),
        ("bleu>=baseline-0.5", 29.5, True),
        ("bleu >= baseline - 0.5", 29.4, False),
        ("bleu>=baseline+1", 30.5, False),
        ("bleu>=baseline*0.98", 29.4, True),
        ("bleu>=baseline * 0.98", 29.39, False),
        ("bleu>=baseline", 29.999999999999996, True),
    ],
)
def test_a_gate_on_a_baseline(text: str, value: float, met: bool) -> None:
    assert checked(text, [score("bleu", value)], [score("bleu", 30.0)]).met is met


def test_a_result_says_both_numbers_and_tells_them_apart() -> None:
    assert checked("bleu>= 20", [score("bleu", 18.25)]) == GateResult(
        "bleu>=20", False, 18.25, "bleu is 18.25, not >= 20"
    )
    assert checked("bleu>=20", [score("bleu", 19.9999999)]).why == "bleu is 19.9999999, not >= 20"
    assert checked("bleu>=20", [score("bleu", 20.0)]).why == "bleu is 20, >= 20"


@pytest.mark.parametrize(
    ("gate", "scores", "baseline", "why"),
    [
        ("bleu>=0", [], None, "there is no score bleu"),
        ("bleu<=5", [score("bleu", math.nan)], None, "bleu is nan, not a finite number"),
        ("bleu>=5", [score("bleu", math.inf)], None, "bleu is inf, not a finite number"),
        ("bleu>=0", [score("bleu", 9, n=0)], None, "computed on zero rows"),
        ("bleu>=baseline-99", [score("bleu", 50)], None, "there is no baseline"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("chrf", 50)], "the baseline has no score bleu"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("bleu", 50, n=9)], "computed on 10 rows, the baseline on 9"),
        (
            "bleu>=baseline-99",
            [score("bleu", 50)],
            [score("bleu", 50, signature="t")],
            "not comparable: the signature is s",
        ),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("bleu", math.nan)], "the baseline's bleu is nan"),
        ("bleu>=20", [score("bleu", 50), score("bleu", 10, signature="t")], None, "bleu is 10, not >= 20"),
    ],
)
def test_gates_fail_closed(gate: str, scores: list[Score], baseline: list[Score] | None, why: str) -> None:
    result = checked(gate, scores, baseline)
    assert not result.met
    assert why in result.why


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a gate"),
        ("bleu", "is not a gate"),
        ("bleu>=", "'' in 'bleu>=' is neither a number nor a baseline"),
        ("20<=bleu", "is not a gate"),
        ("bleu>=20%", "'20%' in 'bleu>=20%' is neither"),
        ("bleu>=nan", "neither a number"),
        ("bleu>=1e999", "neither a number"),
        ("bleu>=baseline/2", "neither a number nor a baseline"),
        ("bleu>=baseline*-1", "multiplies the baseline by -1"),
        ("bleu==20", "a gate on a score cannot use '=='"),
        ("bleu=20", "a gate on a score cannot use '='"),
        ("bleu=>20", "no such comparison '=>'"),
    ],
)
def test_gates_that_are_not_understood(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert said in str(caught.value)
    assert caught.value.hint


COUNTS = of_counts({"kept": 0.9, "pii": 0, "records.read": 120})


@pytest.mark.parametrize(
    ("text", "met", "why"),
    [
        ("kept>=0.9", True, "kept is 0.9, >= 0.9"),
        ("kept>0.9", False, "kept is 0.9, not > 0.9"),
        ("pii==0", True, "pii is 0, == 0"),
        ("records.read == 119", False, "records.read is 120, not == 119"),
        ("rejected==0", False, "there is no number rejected"),
        ("kept>=baseline", False, "there is no baseline to compare with"),
    ],
)
def test_a_gate_on_a_count_or_a_share(text: str, met: bool, why: str) -> None:
    result = parse_gate(text, exact=True).check(COUNTS)
    assert (result.met, result.why) == (met, why)


def test_a_count_is_compared_with_that_of_a_baseline() -> None:
    before = of_counts({"kept": 0.95, "pii": 0})
    assert parse_gate("kept>=baseline-0.1", exact=True).check(COUNTS, before).met
    assert not parse_gate("kept>=baseline-0.01", exact=True).check(COUNTS, before).met
    assert parse_gate("pii==baseline", exact=True).check(COUNTS, before).met
    lacking = parse_gate("records.read>=baseline", exact=True).check(COUNTS, before)
    assert (lacking.met, lacking.why) == (False, "the baseline has no number records.read")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", ["pii==0", "pii>=0", "pii<=0", "pii<=baseline"])
def test_a_number_that_is_not_finite_meets_nothing(text: str, value: float) -> None:
    gate = parse_gate(text, exact=True)
    assert not gate.check([Number("pii", value)], of_counts({"pii": 1})).met
    assert not gate.relative or not gate.check(of_counts({"pii": 1}), [Number("pii", value)]).met


def test_of_a_number_that_is_there_twice_both_must_meet_it() -> None:
    gate = parse_gate("kept>=0.9", exact=True)
    assert not gate.check([Number("kept", 0.95), Number("kept", 0.5)]).met


@pytest.mark.parametrize("text", ["pii=0", "pii!=0", "pii~0", "pii==", "==0", "pii==nan"])
def test_gates_on_counts_that_are_not_understood(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(text, exact=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "possible"),
    [("kept==1", True), ("kept==1.5", False), ("kept>1", False), ("kept<=0", True), ("kept>=baseline+2", True)],
)
def test_whether_a_share_can_meet_a_gate(text: str, possible: bool) -> None:
    assert parse_gate(text, exact=True).possible(0, 1) is possible


def test_a_gate_keeps_what_was_written() -> None:
    gate = parse_gate(" bleu >= baseline - 0.5")
    assert str(gate) == " bleu >= baseline - 0.5"
    assert gate.require == "bleu>=baseline - 0.5"
