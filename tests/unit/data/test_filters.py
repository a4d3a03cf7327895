"""Filters judge a record by its content alone."""

from __future__ import annotations

import pytest

from llmctl.data.cleaning.filters.spec import FILTERS, Quality, Reading, open_filters
from llmctl.script import units_of
from llmctl.types import Role, Segment

OFF = {row.setting: row.off for row in FILTERS}
PROSE = "The committee met on Tuesday to discuss the budget for the coming year. Nobody objected to the plan."
ZH = "委员会星期二开会讨论明年的预算，没有人反对这个计划。会议在下午三点结束，下一次会议定在六月。"


def reason(texts: dict[str, str], quality: Quality) -> str | None:
    reading = Reading([Segment(role, text) for role, text in texts.items()])  # type: ignore[arg-type]
    [quality_filter] = open_filters(OFF | {"quality": quality})
    verdict = quality_filter.judge(reading)
    return verdict and verdict.reason


def test_all_are_off_by_default() -> None:
    assert open_filters(OFF) == []


def test_words_of_every_script() -> None:
    assert units_of("I can't re-do it: 你好，world! हिन्दी में café") == [
        "I", "can't", "re-do", "it", "你", "好", "world", "हिन्दी", "में", "café",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short.", Quality(min_words=3)),
        ("太短", Quality(min_words=3)),
        (PROSE, Quality(max_words=10)),
        (ZH, Quality(max_words=10)),
        ("### $$$ @@@ ★★★ sale ### $$$", Quality(max_symbol_ratio=0.1)),
        ("★★★★★■■■■ 优惠 ★★★★", Quality(max_symbol_ratio=0.1)),
        ("Read on... and on... and on...", Quality(max_symbol_ratio=0.1)),
        ("A line.\nA line.\nA line.\nAnother.", Quality(max_repeated_lines=0.3)),
        ("buy cheap watches online today " * 6, Quality(max_repeated_ngrams=0.15)),
        ("今天全场特价优惠快来购买" * 5, Quality(max_repeated_ngrams=0.15)),
        ("Home | About\nWe use cookies to improve your experience.\nAll rights reserved.", Quality(max_boilerplate=0.3)),
        ("上一篇：春天\n下一篇：夏天\n版权所有，转载请注明出处", Quality(max_boilerplate=0.3)),
        ("Home\nProducts\nContact\nPrices", Quality(min_line_ends=0.12)),
    ],
)  # fmt: skip
def test_each_bound_drops_what_it_is_for_and_keeps_prose(text: str, rule: Quality) -> None:
    [name] = rule.bounds()
    assert reason({"text": text}, rule) == f"quality.{name}"
    prose = ZH[:8] if name == "max_words" else (ZH if "太" in text else PROSE + "\n" + ZH)
    assert reason({"text": prose}, rule) is None


def test_the_sides_of_a_pair_have_similar_lengths() -> None:
    rule = Quality(max_length_ratio=9)
    assert reason({"source": "Good morning.", "target": ZH}, rule) == "quality.max_length_ratio"
    assert reason({"source": PROSE, "target": ZH}, rule) is None
    assert reason({"text": PROSE}, rule) is None


def test_one_bad_turn_of_a_conversation_is_enough() -> None:
    rule = Quality(max_symbol_ratio=0.1)
    assert reason({"system": PROSE, "user": PROSE, "assistant": "$$$ ### @@@"}, rule) == "quality.max_symbol_ratio"


def test_a_preset_is_overridden_key_by_key() -> None:
    assert Quality.model_validate("web").bounds()["min_words"] == 50
    assert Quality(preset="web", min_words=5).bounds()["min_words"] == 5


@pytest.mark.parametrize(
    ("turns", "dropped"),
    [
        ((("user", PROSE), ("assistant", ZH)), False),
        ((("user", PROSE), ("assistant", "Der Ausschuss hat am Dienstag lange über den Haushalt beraten.")), True),
        (
            (
                ("user", PROSE),
                ("assistant", ZH),
                ("user", "委员会は火曜日に予算について話し合いました。"),
                ("assistant", ZH),
            ),
            True,
        ),
        ((("system", "Отвечай на вопросы пользователя вежливо и кратко."), ("user", ZH), ("assistant", ZH)), True),
    ],
)
def test_every_turn_of_a_conversation_is_in_an_allowed_language(
    turns: tuple[tuple[Role, str], ...], dropped: bool
) -> None:
    [languages] = open_filters(OFF | {"languages": ("en", "zh")})
    verdict = languages.judge(Reading([Segment(role, text) for role, text in turns]))
    assert (verdict is not None) == dropped
    if verdict is not None:
        assert verdict.reason == "languages"
        assert verdict.why.startswith(f"{turns[0][0]}: " if turns[0][0] == "system" else ("assistant: ", "user: "))


@pytest.mark.parametrize(
    ("text", "allowed", "dropped"),
    [
        ("Sat, Jun 15", ("en", "zh"), False),
        ("September 1969 – September 1970", ("en",), False),
        ("17:07 Singapore Standard Time", ("en", "zh"), False),
        ("Москва, 5 мая", ("uk",), False),
        ("Москва, 5 мая", ("en", "zh"), True),
        ("Sat, Jun 15", ("zh",), True),
        ("La réunion a eu lieu mardi matin.", ("en",), True),
        ("2031年7月4日", ("en",), True),
        ("17:07 – 18:30", ("zh",), False),
        ("東京大学", ("ja",), False),
        ("2031年7月4日", ("en", "ja"), False),
        ("这家餐厅的服务非常好，价格也很便宜，下次我们还会再来这里吃饭。", ("ja",), True),
    ],
)
def test_a_text_that_says_too_little_about_its_language_stays(
    text: str, allowed: tuple[str, ...], dropped: bool
) -> None:
    [languages] = open_filters(OFF | {"languages": allowed})
    assert (languages.judge(Reading([Segment("text", text)])) is not None) == dropped
