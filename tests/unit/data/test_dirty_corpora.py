"""Each filter finds what is wrong in a corpus of which that is known, and leaves the rest alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.data.cleaning.filters.pii import is_card, is_iban, is_resident_id
from llmctl.data.cleaning.filters.spec import FILTERS, Filter, Quality, Reading, open_filters
from llmctl.types import Segment
from tests.unit.data.dirty import EN, KINDS, LOOK_ALIKES, ZH, Row, corpus, prose

Inside = Callable[..., dict[str, Any]]
OFF = {row.setting: row.off for row in FILTERS}
ROWS = list(corpus(3600))
FOUND = 0.95


def opened(**settings: Any) -> Filter:
    [found] = open_filters(OFF | settings)
    return found


def reading(*texts: str, roles: tuple[str, ...] = ("text",), held_out: bool = False) -> Reading:
    return Reading([Segment(role, text) for role, text in zip(roles, texts, strict=True)], held_out=held_out)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"pii": "drop"}, set(KINDS)),
        ({"languages": ("en", "zh")}, {"language"}),
        ({"quality": Quality(max_boilerplate=0.3)}, {"boilerplate"}),
    ],
)
def test_recall_and_precision(settings: dict[str, Any], wrong: set[str]) -> None:
    each = opened(**settings)
    judged = [(row.wrong in wrong, each.judge(reading(row.text)) is not None) for row in ROWS]
    right = sum(is_wrong and found for is_wrong, found in judged)
    assert right >= FOUND * sum(is_wrong for is_wrong, _ in judged)
    assert right >= FOUND * sum(found for _, found in judged)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_apart_and_masked(kind: str) -> None:
    counts, mask = opened(pii="keep"), opened(pii="mask")
    rows = [row for row in ROWS if row.wrong == kind]
    verdicts = [counts.judge(reading(row.text)) for row in rows]
    assert sum(each is not None and each.counts == {f"pii.{kind}": 1} for each in verdicts) >= FOUND * len(rows)
    assert not any(each.drops for each in verdicts if each)
    masked = [mask.rewrite(row.text) for row in rows]
    assert sum(
        text == row.text.replace(row.secret, f"<{kind.upper()}>") for text, row in zip(masked, rows, strict=True)
    ) >= (FOUND * len(rows))


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert opened(pii="drop").judge(reading(f"It says {text} there.")) is None


# From ISO 13616 and the issuers' test numbers; the resident ID is the example of GB 11643-1999.
def test_check_digits() -> None:
    assert is_card("4111 1111 1111 1111")
    assert is_card("378282246310005")
    assert not is_card("4111 1111 1111 1112")
    assert is_iban("GB82 WEST 1234 5698 7654 32")
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
    assert is_resident_id("11010519491231002X")
    assert not is_resident_id("110105194912310021")


def test_every_turn_and_both_sides_count() -> None:
    pii = opened(pii="drop")
    turns = ("Be brief.", "Hello there.", "Write to anna@uni-bonn.de please.")
    assert pii.judge(reading(*turns, roles=("system", "user", "assistant"))) is not None
    pairs = opened(languages={"source": ("en",), "target": ("zh",)})
    assert pairs.judge(reading(EN[0], ZH[0], roles=("source", "target"))) is None
    assert pairs.judge(reading(ZH[0], EN[0], roles=("source", "target"))) is not None
    either = opened(languages=("en", "zh"))
    assert either.judge(reading(ZH[0], EN[0], roles=("source", "target"))) is None
    assert either.judge(reading(EN[0], EN[0], roles=("source", "target"))) is not None
    assert either.judge(reading(EN[0], "La réunion a eu lieu mardi matin.", roles=("source", "target"))) is not None


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a benchmark; others of the same kind are in the corpus."""
    path = tmp_path_factory.mktemp("bench") / "bench.jsonl"
    rows = [{"text": text} for text in (*EN[:3], *ZH[:3])] + [{"text": "Great phone!", "label": "good"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_leaked_sentences(bench: Path) -> None:
    filter_of_bench = opened(decontaminate=(str(bench),))
    draw = random.Random(1)
    for number in range(400):
        chinese = number % 2 == 1
        inner = (ZH if chinese else EN)[3:]
        text = " ".join([draw.choice(inner), f"Number {number}.", draw.choice(inner)])
        assert filter_of_bench.judge(reading(text)) is None
        leaked = draw.choice((ZH if chinese else EN)[:3])
        leaked = leaked.upper().replace(",", ";") if number % 3 else leaked
        found = filter_of_bench.judge(reading(f"{text} {leaked} {text}"))
        assert found is not None
        assert found.reason == "decontaminate"


def test_a_short_text_counts_only_as_a_whole(bench: Path) -> None:
    filter_of_bench = opened(decontaminate=(str(bench),))
    assert filter_of_bench.judge(reading("great phone")) is not None
    assert filter_of_bench.judge(reading("It is a great phone, is it not?")) is None
    assert filter_of_bench.judge(reading(EN[0], held_out=True)) is None


def test_prepared_data_are_protected_by_their_held_out_splits(inside: Inside, tmp_path: Path) -> None:
    draw = random.Random(2)
    for split, count in (("train", 40), ("test", 10)):
        rows = [{"text": prose(draw, chinese=n % 2 == 0)} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = [tmp_path / f"{split}.jsonl" for split in ("train", "test")]
    inside("preprocess", *files, "--task", "lm", "--vocab-size", "300", "--out", tmp_path / "data")
    held = opened(decontaminate=(str(tmp_path / "data"),))
    texts = [json.loads(line)["text"] for line in files[1].read_text(encoding="utf-8").splitlines()]
    assert all(held.judge(reading(text)) for text in texts)


def test_a_corpus_with_every_filter_on(inside: Inside, bench: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:720], *(Row(f"{prose(random.Random(n), chinese=False)}\n{EN[0]}", "leaked") for n in range(20))]
    (tmp_path / "dirty.jsonl").write_text("\n".join(json.dumps({"text": row.text}) for row in rows), encoding="utf-8")
    document = inside(
        "preprocess", tmp_path / "dirty.jsonl", "--task", "lm", "--vocab-size", "300", "--out", tmp_path / "data",
        "--set", "languages=[en, zh]", "--set", "quality.max_boilerplate=0.3", "--set", "pii=mask",
    )  # fmt: skip
    records = document["records"]
    assert records["read"] == records["kept"] + sum(records["dropped"].values())
    assert records["dropped"]["languages"] == sum(row.wrong == "language" for row in rows)
    assert records["dropped"]["quality.max_boilerplate"] == sum(row.wrong == "boilerplate" for row in rows)
    assert document["found"]["pii"] >= FOUND * sum(row.wrong in KINDS for row in rows)
    assert document["found"]["pii.email"] == sum(row.wrong == "email" for row in rows)
