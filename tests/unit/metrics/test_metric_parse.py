"""Metrics in words: what is understood, what is refused and how; gates that no score can meet."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmctl.errors import ConfigError, UsageError
from llmctl.gates import parse_gate
from llmctl.metrics.parse import check_gates, label, parse_metric
from llmctl.metrics.spec import BLEU, ROUGE, TER, BleuOptions


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
        ("rougeL", "'rougeL' is a score, not a metric", "request the metric that computes it: rouge"),
        ("", "no metric named ''", "see: llmctl list metrics"),
        ("bleu:", "is not KEY=VALUE", "write bleu"),
        ("bleu:zh", "'zh' in 'bleu:zh' is not KEY=VALUE", "write bleu"),
    ],
)
def test_invalid_metric_requests_are_refused(text: str, said: str, hint: str) -> None:
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
        ("bleu:lowercase=true,lowercase=false", "metric.bleu.lowercase: is set twice"),
        ("chrf:beta=0", "metric.chrf.beta: must be at least 1, not 0"),
        ("chrf:beta=[", "not valid YAML"),
        ("accuracy:x=1", "metric.accuracy.x: unknown key"),
        ("ter:normalized=false,asian_support=true", "metric.ter.asian_support: has no effect without normalisation"),
    ],
)
def test_invalid_options_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_metric(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("comet>=20", "needs the score 'comet', which none of the metrics computes", "scores: bleu, rouge1"),
        ("rouge>=0.2", "needs the score 'rouge'", "did you mean"),
        ("rougeL>=20", "can never be met: rougeL ranges from 0 to 1", "between 0 and 1"),
        ("bleu>100", "can never be met", "between 0 and 100"),
        ("bleu>=baseline", "needs a baseline, and there is none", ""),
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
        "import sys; from llmctl.metrics.parse import parse_metric; from llmctl.gates import parse_gate; "
        "parse_metric('rouge:tokenize=char'); parse_gate('rougeL>=0.2'); "
        "print([m for m in ('numpy', 'torch', 'sacrebleu', 'rouge_score', 'nltk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
