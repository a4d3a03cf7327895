"""What each metric answers, checked by hand where no library is the judge."""

from __future__ import annotations

import math

import pytest

from llmctl.errors import DataError
from llmctl.metrics.parse import parse_metric
from llmctl.metrics.scoring import fitting_script, score_answers
from llmctl.metrics.spec import IntervalSpec
from llmctl.types import Answer, Score

NO_INTERVAL = IntervalSpec(resamples=0)


def scored(metric: str, *rows: tuple[str, str | tuple[str, ...]]) -> Score:
    answers = [
        Answer(str(n), prediction, (right,) if isinstance(right, str) else right)
        for n, (prediction, right) in enumerate(rows)
    ]
    return score_answers([parse_metric(metric)], answers, NO_INTERVAL, 0).scores[0]


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The Eiffel Tower!", ("eiffel  tower",), 1, 1),
        ("in Paris, France", ("Paris",), 0, 0.5),
        ("Paris", ("London", "paris."), 1, 1),
        ("the", ("a",), 1, 1),
        ("", ("Paris",), 0, 0),
        ("Paris", ("",), 0, 0),
        ("cat cat", ("cat",), 0, 2 / 3),
        ("anthem", ("them",), 0, 0),
        ("“Paris”", ("Paris",), 0, 0),  # SQuAD's script keeps typographic quotes
        ("《人权宣言》。", ("人权宣言",), 1, 1),
        ("人权　宣言", ("人权宣言",), 1, 1),
        ("世界人权", ("人权宣言",), 0, 0.5),
        ("一九四八年 Paris", ("一九四八年，paris！",), 1, 1),
    ],
)
def test_answers(prediction: str, references: tuple[str, ...], exact: float, f1: float) -> None:
    assert scored("exact_match", (prediction, references)).value == exact
    assert scored("f1", (prediction, references)).value == pytest.approx(f1)


MIXED_ANSWERS = (
    ("《红楼梦》", "红楼梦"),
    ("The Beatles from Liverpool, England", "Beatles from Liverpool England"),
    ("a dog", "dog"),
)


@pytest.mark.parametrize("metric", ["exact_match", "f1"])
def test_each_answer_is_normalised_by_the_script_of_its_own_reference(metric: str) -> None:
    score = scored(metric, *MIXED_ANSWERS)
    assert score.value == 1
    assert "punct:removed+removed-unicode|articles:removed|tok:blank+char" in score.signature


@pytest.mark.parametrize("metric", ["exact_match", "f1", "rouge"])
def test_the_value_of_a_row_does_not_depend_on_other_rows(metric: str) -> None:
    rows = [
        *MIXED_ANSWERS,
        ("“Paris”", "Paris"),
        ("今天天气好", "今天天气很好"),
        ("วันนี้อากาศดี", "วันนี้อากาศดีมาก"),
        ("так и есть", "так есть"),
    ]
    alone = [scored(metric, row).value for row in rows]
    assert scored(metric, *rows).value == pytest.approx(sum(alone) / len(rows))
    assert scored(metric, *rows[2:5]).value == pytest.approx(sum(alone[2:5]) / 3)


def test_several_references_of_one_row_are_compared_each_in_its_own_script() -> None:
    assert scored("exact_match", ("《红楼梦》", ("Dream of the Red Chamber", "红楼梦"))).value == 1
    assert scored("rouge", ("今天天气很好", ("The weather is fine today", "今天天气很好"))).value == 1
    assert "|tok:char+default|" in scored("rouge", ("x", ("The weather", "今天天气很好"))).signature


def test_a_signature_says_that_the_number_of_references_varies() -> None:
    assert scored("f1", ("a", "a"), ("b", ("b", "c"))).signature.startswith("nrefs:var|")
    assert scored("f1", ("a", ("a", "d")), ("b", ("b", "c"))).signature.startswith("nrefs:2|")
    assert "nrefs:var|" in scored("bleu", ("a", "a"), ("b", ("b", "c"))).signature


def test_answers_compared_without_normalisation() -> None:
    assert scored("exact_match:normalize=false", ("Paris", "paris")).value == 0
    assert scored("f1:normalize=false", ("the cat", "the dog")).value == 0.5


def test_answer_signatures_distinguish_characters_from_words() -> None:
    english, chinese = (scored("f1", (text, text)).signature for text in ("a cat", "一只猫"))
    assert "tok:blank" in english
    assert "tok:char" in chinese
    assert scored("f1:normalize=false", ("x", "x")).signature != scored("f1", ("x", "x")).signature


def test_labels_ignore_surrounding_whitespace_but_not_case() -> None:
    assert scored("accuracy", (" positive\r", "positive"), ("Positive", "positive")).value == 0.5
    assert scored("macro_f1", (" positive\r", "positive"), ("Positive", "positive")).value == pytest.approx(1 / 3)


def test_macro_f1_refuses_anything_but_one_label() -> None:
    with pytest.raises(DataError, match="one label per row") as caught:
        scored("macro_f1", ("a", "a"), ("a", ("a", "b")))
    assert caught.value.where == "row 2 (id 1)"
    with pytest.raises(DataError, match="not a reference label"):
        scored("macro_f1", *((f"free text {n}", "label") for n in range(1001)))


def likelihood(metric: str, *rows: tuple[float, int, int]) -> float:
    answers = [Answer(str(n), logprob=nats, tokens=tokens, bytes=size) for n, (nats, tokens, size) in enumerate(rows)]
    return score_answers([parse_metric(metric)], answers, NO_INTERVAL, 0).scores[0].value


def test_likelihood_is_summed_first_and_divided_once() -> None:
    rows = [(-3 * math.log(2), 3, 12), (-5 * math.log(2), 1, 4)]
    assert likelihood("perplexity", *rows) == pytest.approx(4.0)  # 8 bits over 4 tokens
    assert likelihood("bits_per_byte", *rows) == pytest.approx(0.5)  # 8 bits over 16 bytes


def test_likelihood_that_is_not_finite_stays_so() -> None:
    assert math.isnan(likelihood("perplexity", (0.0, 0, 0)))
    assert math.isnan(likelihood("bits_per_byte", (0.0, 0, 0)))
    assert math.isnan(likelihood("perplexity", (math.nan, 1, 1)))
    assert likelihood("perplexity", (-math.inf, 1, 1)) == math.inf
    assert likelihood("perplexity", (-1e6, 1, 1)) == math.inf


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("人人生而自由，在尊严和权利上一律平等。", "char"),
        ("Все люди рождаются свободными", "char"),
        ("सभी मनुष्यों को गौरव और अधिकार", "char"),
        ("모든 인간은 태어날 때부터 자유롭다", "char"),
        ("All human beings are born free", "default"),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระ", "char"),
        ("មនុស្សទាំងអស់កើតមកមានសេរីភាព", "char"),
    ],
)
def test_rouge_of_a_text_with_itself_is_1_in_every_script(text: str, tokenizer: str) -> None:
    answers = [Answer("0", text, (text,))]
    scores = score_answers([parse_metric("rouge")], answers, NO_INTERVAL, 0).scores
    assert {score.metric: score.value for score in scores} == dict.fromkeys(
        ("rouge1", "rouge2", "rougeL", "rougeLsum"), 1
    )
    assert f"tok:{tokenizer}|" in scores[0].signature
    assert scored("rouge:tokenize=default", (text, text)).value == (1 if tokenizer == "default" else 0)


def test_rouge_does_not_split_the_words_of_other_scripts() -> None:
    # 用 Python 写 程 序 against 用 Java 写 程 序: four of five
    assert scored("rouge", ("用Python写程序", "用Java写程序")).value == pytest.approx(0.8)


def test_rouge_of_mixed_scripts_against_themselves_is_1() -> None:
    score = scored("rouge", *((text, text) for text in ("This is a rather long English line indeed", "今天天气很好")))
    assert score.value == 1
    assert "|tok:char+default|" in score.signature


def warnings(metric: str, *rows: tuple[str, str]) -> tuple[str, ...]:
    answers = [Answer(str(n), prediction, (right,)) for n, (prediction, right) in enumerate(rows)]
    return score_answers([parse_metric(metric)], answers, NO_INTERVAL, 0).warnings


def test_letters_that_rouge_score_drops_are_said() -> None:
    row = ("Größe über alles", "Gräße äber alles")
    assert scored("rouge", row).value == 1  # as rouge-score has it
    (found,) = warnings("rouge", row)
    assert "'Gräße' loses letters" in found
    assert "rouge:tokenize=unicode" in found
    assert scored("rouge:tokenize=unicode", row).value == pytest.approx(1 / 3)
    assert warnings("rouge:tokenize=unicode", row) == ()
    assert warnings("rouge", ("a cat", "the cat")) == ()


def test_bleu_of_texts_too_short_for_it_is_said() -> None:
    (found,) = warnings("bleu", ("3天前", "3天前"), ("你好", "你好"))
    assert "no prediction is longer than 3 tokens" in found
    assert "bleu:effective_order=true" in found
    score = scored("bleu:effective_order=true", ("3天前", "3天前"))
    assert score.value == pytest.approx(100)
    assert "eff:yes" in score.signature
    assert warnings("bleu", ("the cat sat on the mat", "a cat")) == ()


def test_chinese_bleu_takes_the_chinese_tokenizer_and_says_so() -> None:
    score = scored("bleu", ("人人生而自由。", "人人生而自由。"))
    assert score.value == pytest.approx(100)
    assert "tok:zh" in score.signature
    assert "tok:13a" in scored("bleu:tokenize=13a", ("人人", "人人")).signature


def test_chinese_ter_counts_characters() -> None:
    assert scored("ter", ("人人自由", "人人平等")).value == pytest.approx(50)
    assert "norm:yes|punct:yes|asian:yes" in scored("ter", ("人人自由", "人人平等")).signature
    assert scored("ter:normalized=false", ("人人自由", "人人平等")).value == pytest.approx(100)


def test_another_beta_of_chrf_is_in_the_signature() -> None:
    assert "|beta:3|" in scored("chrf:beta=3", ("a", "a")).signature


@pytest.mark.parametrize(
    "metric", ["bleu", "chrf", "ter", "rouge", "accuracy", "macro_f1", "exact_match", "f1", "wer", "cer"]
)
def test_an_answer_without_reference_is_bad_data(metric: str) -> None:
    with pytest.raises(DataError, match="no reference") as caught:
        score_answers([parse_metric(metric)], [Answer("a", "x", ("x",)), Answer("b", "y")], NO_INTERVAL, 0)
    assert caught.value.where == "row 2 (id b)"


def test_no_rows_is_bad_data() -> None:
    with pytest.raises(DataError, match="no rows to score"):
        score_answers([parse_metric("perplexity")], [], NO_INTERVAL, 0)


@pytest.mark.parametrize(
    ("metric", "prediction", "reference", "expected"),
    [
        ("wer", "the cat sat", "the cat sat down", 1 / 4),
        ("wer", "", "the cat", 1),
        ("wer", "a b c", "a", 2),
        ("wer", "two words", "", 2),  # nothing was said: each word is an insertion
        ("wer", "", "", 0),
        ("wer", "  the   cat ", "the cat", 0),
        ("wer", "The cat!", "the cat", 1),
        ("wer:normalize=basic", "The cat!", "the cat", 0),
        ("wer:normalize=english", "Mr. Smith won't pay $20", "mister smith will not pay twenty", 1 / 6),
        ("cer", "一二", "一二三", 1 / 3),
        ("cer:normalize=basic", "一、二。", "一 二", 0),
    ],
)
def test_error_rates(metric: str, prediction: str, reference: str, expected: float) -> None:
    score = scored(metric, (prediction, reference))
    assert score.value == pytest.approx(expected)
    assert f"norm:{'none' if ':' not in metric else metric.partition('=')[2]}|" in score.signature
    assert not score.higher_is_better


def test_wer_of_chinese_says_to_use_cer_and_is_no_default() -> None:
    answers = [Answer("1", "一二三", ("一二四",))]
    metrics = [parse_metric("wer"), parse_metric("cer")]
    assert "use cer" in score_answers(metrics, answers, NO_INTERVAL, 0).warnings[0]
    assert [spec.name for spec, _ in fitting_script(metrics, answers)] == ["cer"]
    assert len(fitting_script(metrics, [Answer("1", "one", ("one",))])) == 2
