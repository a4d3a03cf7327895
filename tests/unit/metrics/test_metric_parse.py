"""Metrics and gates in words: what is understood, what is refused and how."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from llmctl.errors import ConfigError, UsageError
from llmctl.metrics.parse import GateResult, check_gates, label, parse_gate, parse_metric
from llmctl.metrics.spec import BLEU, ROUGE, TER, BleuOptions
from llmctl.types import Score


def score(metric: str, value: float, *, n: int = 10, signature: str = "s") -> Score:
    return Score(metric, value, "0-100", signature, n)


def test_a_metric_with_options() -> None:
    spec, options = parse_metric(" bleu:tokenize=zh, lowercase=true ")
    assert spec is BLEU
    assert options == BleuOptions(tokenize="zh", lowercase=True)
    assert label(spec, options) == "bleu:tokenize=zh,lowercase=true"
    assert label(*parse_metric("bleu")) == "bleu"
    assert parse_metric(label(spec, options)) == (spec, options)


def test_none_is_a_tokenizer_and_13a_is_text() -> None:
    assert parse_metric("bleu:tokenize=none")[1] == BleuOptions(tokenize="none")
    assert parse_metric("bleu:tokenize=13a")[1] == BleuOptions(tokenize="13a")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("blue", "no metric named 'blue'", "did you mean 'bleu'?"),
        ("rougeL", "'rougeL' is a score, not a metric", "ask for the metric that gives it: rouge"),
        ("", "no metric named ''", "see: llmctl list metrics"),
        ("bleu:", "is not KEY=VALUE", "write bleu"),
        ("bleu:zh", "'zh' in 'bleu:zh' is not KEY=VALUE", "write bleu"),
    ],
)
def test_metrics_that_are_not_understood(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_metric(text)
    assert said in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bleu:tokenise=zh", "metric.bleu.tokenise: unknown key; did you mean 'tokenize'?"),
        ("bleu:tokenize=zz", "metric.bleu.tokenize: must be '13a'"),
        ("bleu:lowercase=1", "metric.bleu.lowercase: must be true or false, not 1"),
        ("bleu:lowercase=true,lowercase=false", "metric.bleu.lowercase: stands twice"),
        ("chrf:beta=0", "metric.chrf.beta: must be at least 1, not 0"),
        ("chrf:beta=[", "not valid YAML"),
        ("accuracy:x=1", "metric.accuracy.x: unknown key"),
        ("ter:normalized=false,asian_support=true", "metric.ter.asian_support: does nothing without normalisation"),
    ],
)
def test_options_that_are_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_metric(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("bleu>=20", 20.0, True),
        ("bleu >= 20", 19.999999, False),
        ("bleu>20", 20.0, False),
        ("bleu<=60", 60.0, True),
        (" bleu < 1.2e1 ", 12.0, False),
        ("bleu>=-.5", 0.0, True),
    ],
)
def test_a_gate_on_a_number(text: str, value: float, met: bool) -> None:
    assert parse_gate(text).check([score("chrf", 0), score("bleu", value)]).met is met


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
    ],
)
def test_a_gate_on_a_baseline(text: str, value: float, met: bool) -> None:
    assert parse_gate(text).check([score("bleu", value)], [score("bleu", 30.0)]).met is met


def test_a_result_says_both_numbers_and_tells_them_apart() -> None:
    assert parse_gate("bleu>= 20").check([score("bleu", 18.25)]) == GateResult(
        "bleu>=20", False, 18.25, "bleu is 18.25, not >= 20"
    )
    assert parse_gate("bleu>=20").check([score("bleu", 19.99999999)]).why == "bleu is 19.99999999, not >= 20"
    assert parse_gate("bleu>=20").check([score("bleu", 20.0)]).why == "bleu is 20, >= 20"


@pytest.mark.parametrize(
    ("gate", "scores", "baseline", "why"),
    [
        ("bleu>=0", [], None, "there is no score bleu"),
        ("bleu<=5", [score("bleu", math.nan)], None, "bleu is nan, not a finite number"),
        ("bleu>=5", [score("bleu", math.inf)], None, "bleu is inf, not a finite number"),
        ("bleu>=0", [score("bleu", 9, n=0)], None, "computed on no rows"),
        ("bleu>=baseline-99", [score("bleu", 50)], None, "there is no baseline"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("chrf", 50)], "the baseline has no score bleu"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("bleu", 50, n=9)], "10 rows, the baseline has 9"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("bleu", 50, signature="t")], "not comparable: s"),
        ("bleu>=baseline-99", [score("bleu", 50)], [score("bleu", math.nan)], "the baseline's bleu is nan"),
        ("bleu>=20", [score("bleu", 50), score("bleu", 10, signature="t")], None, "bleu is 10, not >= 20"),
    ],
)
def test_gates_fail_closed(gate: str, scores: list[Score], baseline: list[Score] | None, why: str) -> None:
    result = parse_gate(gate).check(scores, baseline)
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
        ("bleu==20", "a gate cannot ask for '=='"),
        ("bleu=20", "a gate cannot ask for '='"),
        ("bleu=>20", "no such comparison '=>'"),
    ],
)
def test_gates_that_are_not_understood(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("comet>=20", "needs the score 'comet', which none of the metrics gives", "scores: bleu, rouge1"),
        ("rouge>=0.2", "needs the score 'rouge'", "did you mean"),
        ("rougeL>=20", "can never be met: rougeL goes from 0 to 1", "between 0 and 1"),
        ("bleu>100", "can never be met", "between 0 and 100"),
        ("bleu>=baseline", "compares with a baseline, and none is given", ""),
    ],
)
def test_gates_that_no_score_can_meet_are_refused_before_any_work(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_gates([parse_gate(text)], [BLEU, ROUGE, TER])
    assert said in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_gates_that_can_be_met_pass() -> None:
    gates = [parse_gate(text) for text in ("bleu>=100", "rougeLsum>0.999", "ter<=250", "ter>=150", "ter<=baseline")]
    check_gates(gates, [BLEU, ROUGE, TER], baseline=True)


def test_reading_metrics_and_gates_imports_nothing_heavy() -> None:
    code = (
        "import sys; from llmctl.metrics.parse import parse_metric, parse_gate; "
        "parse_metric('rouge:tokenize=char'); parse_gate('rougeL>=0.2'); "
        "print([m for m in ('numpy', 'torch', 'sacrebleu', 'rouge_score', 'nltk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
