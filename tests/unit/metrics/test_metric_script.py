"""Script detection, and the tokenizers chosen by it."""

from __future__ import annotations

import importlib.util

import pytest

from llmctl.errors import MissingPackage
from llmctl.metrics.parse import parse_metric
from llmctl.metrics.spec import Metric
from llmctl.metrics.translation import tokenizer_for
from llmctl.script import script_of, split_characters
from llmctl.types import Answer


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("All human beings are born free.", "latin"),
        ("Tous les êtres humains naissent libres, Größe", "latin"),
        ("", "latin"),
        ("2024-03-05 12:30", "latin"),
        ("人人生而自由，在尊严和权利上一律平等。", "chinese"),
        ("使用 Python 和 TensorFlow 训练语言模型", "chinese"),
        ("The word 人 means person", "latin"),
        ("すべての人間は、生まれながらにして自由であり", "japanese"),
        ("国際連合憲章 ノ 前文 ガ 採択 サレタ", "japanese"),
        ("모든 인간은 태어날 때부터 자유로우며", "korean"),
        ("大韓民國의 主權은 國民에게 있고 모든 權力은 국민으로부터 나온다", "korean"),
        ("Все люди рождаются свободными", "other"),
        ("يولد جميع الناس أحرارا", "other"),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระ", "unspaced"),
        ("ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ", "unspaced"),
        ("មនុស្សទាំងអស់កើតមកមានសេរីភាព", "unspaced"),
        ("လူတိုင်းသည် တူညီ လွတ်လပ်သော", "unspaced"),
    ],
)
def test_the_script_of_a_text(text: str, script: str) -> None:
    assert script_of([text]) == script


def test_a_set_of_texts_has_one_script() -> None:
    assert script_of(["人人生而自由", "OK", "在尊严和权利上一律平等"]) == "chinese"


def test_east_asian_text_is_split_into_characters_and_other_words_are_not() -> None:
    assert split_characters("用Python3写程序").split() == ["用", "Python3", "写", "程", "序"]
    assert split_characters("ที่ Python").split() == ["ที่", "Python"]  # a letter keeps its marks


@pytest.mark.parametrize(
    ("script", "module", "own"), [("japanese", "MeCab", "ja-mecab"), ("korean", "mecab_ko", "ko-mecab")]
)
def test_a_tokenizer_whose_package_is_missing(script: str, module: str, own: str) -> None:
    """Chosen by script it becomes `char`, which the signature names; asked for by name it is an error with its cure."""
    if importlib.util.find_spec(module):
        assert tokenizer_for(script) == own  # type: ignore[arg-type]
        return
    assert tokenizer_for(script) == "char"  # type: ignore[arg-type]
    spec, options = parse_metric(f"bleu:tokenize={own}")
    with pytest.raises(MissingPackage) as caught:
        spec.build(options)
    assert caught.value.hint == f"pip install 'sacrebleu[{own[:2]}]'"


ENGLISH = [
    ("The cat sat on the mat, didn't it?", "The cat sat upon the mat, didn't it?"),
    ("All men are born free and equal.", "All human beings are born free and equal."),
    ("It rains in the north of the country.", "It rains in the north of that country."),
]
CHINESE = [("人人生而自由，权利一律平等。", "人人生而自由，在权利上一律平等。"), ("今天下雨了吗？", "今天下雪了吗？")]
THAI = [("มนุษย์ทั้งหลายเกิดมามีอิสระ", "มนุษย์เกิดมามีอิสระ")]


def measured(name: str, pairs: list[tuple[str, str]]) -> tuple[list[list[float]], str, float]:
    answers = [Answer(str(number), text, (reference,)) for number, (text, reference) in enumerate(pairs)]
    spec, options = parse_metric(name)
    metric: Metric = spec.build(options)
    fitted = metric.prepare(answers)
    rows = [list(map(float, fitted.measure(answer))) for answer in answers]
    [value] = fitted.score([sum(column) for column in zip(*rows, strict=True)]).values()
    return rows, str(fitted.signature()), value


@pytest.mark.parametrize(("name", "both"), [("bleu", "tok:13a+zh"), ("ter", "norm:no+yes"), ("chrf", "nc:6")])
def test_pairs_of_another_script_among_many_are_split_by_their_own(name: str, both: str) -> None:
    rows, signature, _ = measured(name, [*ENGLISH * 3, *CHINESE])
    english, of_english, _ = measured(name, ENGLISH * 3)
    chinese, of_chinese, _ = measured(name, CHINESE)
    assert rows == [*english, *chinese]
    assert both in signature
    assert (of_english == of_chinese == signature) == (name == "chrf")


def test_thai_among_english_and_english_among_thai_are_scored_the_same() -> None:
    for pairs in ([*ENGLISH, *THAI], [*THAI * 9, *ENGLISH]):
        rows, signature, _ = measured("bleu", pairs)
        assert "tok:13a+char" in signature
        assert [measured("bleu", [pair])[0][0] for pair in pairs] == rows


def test_a_chinese_file_with_a_line_in_english_is_scored_as_sacrebleu_does() -> None:
    from sacrebleu.metrics.bleu import BLEU

    pairs = [*CHINESE * 4, ("OK, let's go.", "OK, let's go!")]
    _, signature, value = measured("bleu", pairs)
    assert "tok:zh|" in signature
    texts, references = zip(*pairs, strict=True)
    assert value == pytest.approx(BLEU(tokenize="zh").corpus_score(texts, [references]).score, rel=1e-9)
