"""Metrics against the programs they must agree with: sacrebleu's command line, rouge-score, scikit-learn, jiwer.

The texts in `metrics/` are sentences of the Universal Declaration of Human Rights (United Nations, free to reproduce);
hypotheses, baseline and second reference are rewordings made for these tests.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from llmctl.metrics.paired import paired
from llmctl.metrics.parse import parse_metric
from llmctl.metrics.scoring import measure, score_answers
from llmctl.metrics.spec import IntervalSpec
from llmctl.types import Answer, Score

TEXTS = Path(__file__).parent / "metrics"
EXACT = 1e-9
NO_INTERVAL = IntervalSpec(resamples=0)


def lines(name: str) -> list[str]:
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def paired_up(predictions: list[str], *streams: list[str]) -> list[Answer]:
    rows = zip(predictions, zip(*streams, strict=True), strict=True)
    return [Answer(str(number), prediction, references) for number, (prediction, references) in enumerate(rows)]


def scores(metric: str, answers: list[Answer], interval: IntervalSpec = NO_INTERVAL) -> dict[str, Score]:
    return {score.metric: score for score in score_answers([parse_metric(metric)], answers, interval, 0).scores}


def sacrebleu_says(hypothesis: Path, references: list[Path], *options: str) -> dict[str, Any]:
    """What `sacrebleu` prints, with 12 digits."""
    command = [sys.executable, "-m", "sacrebleu", *map(str, references), "-i", str(hypothesis), "-w", "12", *options]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize(
    ("metric", "hypothesis", "references", "options"),
    [
        ("bleu", "en.hypothesis", ["en.reference"], ["-m", "bleu"]),
        ("bleu", "en.hypothesis", ["en.reference", "en.second-reference"], ["-m", "bleu"]),
        ("bleu:lowercase=true,tokenize=intl", "en.hypothesis", ["en.reference"], ["-lc", "-tok", "intl"]),
        ("bleu:smooth=add-k", "en.hypothesis", ["en.reference"], ["-s", "add-k"]),
        ("bleu", "zh.hypothesis", ["zh.reference"], ["-tok", "zh"]),
        ("chrf", "en.hypothesis", ["en.reference", "en.second-reference"], ["-m", "chrf"]),
        ("chrf:word_order=2", "en.hypothesis", ["en.reference"], ["-m", "chrf", "--chrf-word-order", "2"]),
        ("chrf", "zh.hypothesis", ["zh.reference"], ["-m", "chrf"]),
        ("ter", "en.hypothesis", ["en.reference", "en.second-reference"], ["-m", "ter"]),
        ("ter:case_sensitive=true", "en.hypothesis", ["en.reference"], ["-m", "ter", "--ter-case-sensitive"]),
        ("ter", "zh.hypothesis", ["zh.reference"], ["-m", "ter", "--ter-normalized", "--ter-asian-support"]),
    ],
)
def test_translation_metrics_equal_the_sacrebleu_command(
    metric: str, hypothesis: str, references: list[str], options: list[str]
) -> None:
    said = sacrebleu_says(TEXTS / f"{hypothesis}.txt", [TEXTS / f"{name}.txt" for name in references], *options)
    (score,) = scores(metric, paired_up(lines(hypothesis), *map(lines, references))).values()
    assert score.value == pytest.approx(said["score"], abs=EXACT)
    assert score.signature == said["signature"]


def test_crlf_files_score_as_sacrebleu_scores_them(tmp_path: Path) -> None:
    files = {}
    for name in ("en.hypothesis", "en.reference"):
        files[name] = tmp_path / f"{name}.txt"
        files[name].write_bytes("".join(f"{line}\r\n" for line in lines(name)).encode())
    kept = {name: path.read_bytes().decode().split("\n")[:-1] for name, path in files.items()}
    assert kept["en.hypothesis"][0].endswith("\r")
    for metric in ("bleu", "chrf", "ter"):
        said = sacrebleu_says(files["en.hypothesis"], [files["en.reference"]], "-m", metric)
        (score,) = scores(metric, paired_up(kept["en.hypothesis"], kept["en.reference"])).values()
        assert score.value == pytest.approx(said["score"], abs=EXACT)


LIBRARY = {"bleu": BLEU, "chrf": CHRF, "ter": TER}


@pytest.mark.parametrize("metric", LIBRARY)
@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([""], [("a reference",)]),
        (["a prediction"], [("",)]),
        ([""], [("",)]),
        (["same text here, all of it"], [("same text here, all of it",)]),
        (["word"], [("word",)]),
        (["word"], [("other",)]),
        (["a\r", "b c\r"], [("a",), ("b c d\r",)]),
        (["Mixed CASE text", "the cat sat"], [("mixed case text", "MIXED case"), ("a cat sat", "the dog sat")]),
        # sacrebleu's None: rows with different numbers of references, `nrefs:var`
        (["the cat sat", "a dog", "one more"], [("a cat sat", "the cat sat down"), ("a dog",), ("one", "two more")]),
    ],
)
def test_degenerate_texts_equal_sacrebleus_corpus_score(
    metric: str, predictions: list[str], references: list[tuple[str, ...]]
) -> None:
    most = max(map(len, references))
    streams = [[row[place] if place < len(row) else None for row in references] for place in range(most)]
    library = LIBRARY[metric]()
    expected = library.corpus_score(predictions, streams).score
    answers = [Answer(str(n), *pair) for n, pair in enumerate(zip(predictions, references, strict=True))]
    (score,) = scores(metric, answers).values()
    assert score.value == pytest.approx(expected, abs=EXACT)
    assert score.signature == str(library.get_signature())


@pytest.mark.parametrize("seed", range(5))
def test_any_sum_of_rows_is_the_corpus_score_of_those_rows(seed: int) -> None:
    draw = random.Random(seed)
    words = ["the", "a", "of", "to", "right", "law", "person", "人", "权", "Right", ".", ",", ""]
    texts = [[" ".join(draw.choices(words, k=draw.randrange(9))) for _ in range(12)] for _ in range(3)]
    answers = paired_up(*texts)
    some = [draw.randrange(12) for _ in range(8)]
    for name, library in LIBRARY.items():
        spec, options = parse_metric(name)
        measured = measure(spec.build(options), answers)
        expected = library().corpus_score([texts[0][n] for n in some], [[each[n] for n in some] for each in texts[1:]])
        assert measured.metric.score(measured.rows[some].sum(axis=0))[name] == pytest.approx(expected.score, abs=EXACT)


ENGLISH = ["one", "two", "Two", "three,", "don't", "fourteen", "", "a\tb", "  "]
CHINESE = ["一", "二", "十", "百零三", "，", "。", " ", "𠀀", ""]


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_error_rates_equal_jiwer(words: list[str]) -> None:
    """jiwer 4.0.0 on 500 noisy pairs, one in ten without any answer and some without any reference."""
    draw = random.Random(1)
    blank = " " if words is ENGLISH else ""
    references, predictions = [], []
    for _ in range(500):
        said = draw.choices(words, k=draw.randrange(40))
        heard = [draw.choice(words) if draw.random() < 0.2 else word for word in said if draw.random() > 0.1]
        references.append(blank.join(said))
        predictions.append("" if draw.random() < 0.1 else blank.join(heard))
    answers = paired_up(predictions, references)
    for metric, library in (("wer", jiwer.wer), ("cer", jiwer.cer)):
        assert scores(metric, answers)[metric].value == pytest.approx(library(references, predictions), abs=EXACT)
        for answer in answers[:100]:
            expected = library(list(answer.references), [answer.prediction])
            assert scores(metric, [answer])[metric].value == pytest.approx(expected, abs=EXACT)


def rouge_means(predictions: list[str], references: list[list[str]], tokenizer: Any = None) -> dict[str, float]:
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, tokenizer=tokenizer)
    each = [scorer.score_multi(right, text) for text, right in zip(predictions, references, strict=True)]
    return {name: float(np.mean([found[name].fmeasure for found in each])) for name in names}


def test_rouge_is_the_mean_of_rouge_scores_f_measures() -> None:
    hypothesis, first, second = lines("en.hypothesis"), lines("en.reference"), lines("en.second-reference")
    # Three sentences a summary, parted by newlines: rougeLsum then differs from rougeL.
    triples = range(0, len(first), 3)
    predictions = ["\n".join(hypothesis[n : n + 3]) for n in triples]
    references = [["\n".join(first[n : n + 3]), "\n".join(reversed(second[n : n + 3]))] for n in triples]
    answers = [Answer(str(n), *pair) for n, pair in enumerate(zip(predictions, map(tuple, references), strict=True))]
    got = {name: score.value for name, score in scores("rouge", answers).items()}
    assert got == pytest.approx(rouge_means(predictions, references), abs=EXACT)
    assert got["rougeL"] != got["rougeLsum"]


def test_rouge_with_stemmer_equals_rouge_score() -> None:
    hypothesis, reference = lines("en.hypothesis"), lines("en.reference")
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    pairs = list(zip(reference, hypothesis, strict=True))
    expected = np.mean([scorer.score(*pair)["rouge1"].fmeasure for pair in pairs])
    assert scores("rouge:stemmer=true", paired_up(hypothesis, reference))["rouge1"].value == pytest.approx(
        expected, abs=EXACT
    )


def test_chinese_rouge_is_rouge_score_on_characters() -> None:
    """rouge-score itself answers 0; written with a number for each character, it answers what llmctl answers."""
    hypothesis, reference = lines("zh.hypothesis"), lines("zh.reference")
    assert rouge_means(hypothesis, [[text] for text in reference])["rouge2"] == 0

    def numbered(text: str) -> str:
        return (
            " ".join(str(ord(each)) if "\u4e00" <= each <= "\u9fff" else each for each in text)
            .replace("R e l i g i o n", "Religion")
            .replace("p e r s o n", "person")
        )

    expected = rouge_means([numbered(text) for text in hypothesis], [[numbered(text)] for text in reference])
    found = scores("rouge", paired_up(hypothesis, reference))
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected, abs=EXACT)
    assert "tok:char" in found["rouge1"].signature


@pytest.mark.parametrize(
    ("right", "predicted", "accuracy", "macro_f1"),
    [
        # sklearn.metrics.accuracy_score and f1_score(average="macro"), scikit-learn 1.9.1; "junk" is no label
        ("pos neg neg neu pos neg neu pos", "pos neg pos neu junk neg neg pos", 0.625, 0.5),
        ("a a a b", "a a a a", 0.75, 0.42857142857142855),
        ("a b c", "x y z", 0.0, 0.0),
        ("a", "a", 1.0, 1.0),
    ],
)
def test_label_metrics_equal_scikit_learn(right: str, predicted: str, accuracy: float, macro_f1: float) -> None:
    answers = paired_up(predicted.split(), right.split())
    assert scores("accuracy", answers)["accuracy"].value == pytest.approx(accuracy, abs=EXACT)
    assert scores("macro_f1", answers)["macro_f1"].value == pytest.approx(macro_f1, abs=EXACT)


@pytest.mark.parametrize("test", ["bs", "ar"])
def test_paired_tests_agree_with_sacrebleus(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed draws the same resamples. Only ties are counted otherwise: TER, in whole edits, has many."""
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    systems = {name: lines(f"en.{name}") for name in ("baseline", "hypothesis")}
    reference = lines("en.reference")
    for name, library in LIBRARY.items():
        _, said = PairedTest(list(systems.items()), {name: library()}, [reference], test, n_samples=1000)()
        (expected,) = [values[1].p_value for title, values in said.items() if title != "System"]
        spec, options = parse_metric(name)
        one, other = (measure(spec.build(options), paired_up(texts, reference)) for texts in systems.values())
        ours = paired(other.rows, one.rows, one.metric.score, resamples=1000, seed=7)[name]
        p = ours.p_bootstrap if test == "bs" else ours.p_randomization
        if (test, name) == ("ar", "ter"):
            assert expected < p < expected + 0.1
        else:
            assert p == pytest.approx(expected, abs=0.002)


def test_interval_holds_sacrebleus_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """sacrebleu prints half the width of its 95 % bootstrap interval."""
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    hypothesis, reference = lines("en.hypothesis"), lines("en.reference")
    answers = paired_up(hypothesis, reference)
    for name, library in LIBRARY.items():
        theirs = library().corpus_score(hypothesis, [reference], n_bootstrap=1000)._ci
        scored = score_answers([parse_metric(name)], answers, IntervalSpec(), 12345).scores[0].ci
        assert scored is not None
        assert (scored.high - scored.low) / 2 == pytest.approx(float(theirs), rel=0.02)
