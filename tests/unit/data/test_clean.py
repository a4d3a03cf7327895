"""Cleaning: what it changes, what it keeps, and that it takes linear time."""

from __future__ import annotations

import itertools
import time

import pytest

from llmctl.data.cleaning.clean import Cleaner
from llmctl.data.spec import Clean


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("e\u0301", "é"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\u2028b\x85c\vd\fe", "a\nb\nc\nd\ne"),
        ("nul\x00 bell\x07 del\x7f", "nul bell del"),
        ("e\x00\u0301", "é"),
        ("a   b\t\tc", "a b\tc"),
        ("a \t b", "a b"),
        ("a  \nb", "a\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("a\n \n \nb", "a\n\nb"),
        ("\n  a  \n", "a"),
        ("\u3000\u3000床前明月光，\u3000\u3000疑是地上霜。\u3000", "床前明月光，\u3000疑是地上霜。"),
        ("zero\u200bwidth and \u05e9\u05dc\u05d5\u05dd", "zero\u200bwidth and \u05e9\u05dc\u05d5\u05dd"),
        ("ﬁne Ｆｕｌｌ", "ﬁne Ｆｕｌｌ"),
    ],
)
def test_rules(given: str, cleaned: str) -> None:
    cleaner = Cleaner(Clean())
    assert cleaner.text(given) == cleaned
    assert cleaner.text(cleaned) == cleaned


def test_switches() -> None:
    assert Cleaner(Clean(unicode="nfkc")).text("ﬁne Ｆｕｌｌ") == "fine Full"
    assert Cleaner(Clean(unicode="none")).text("e\u0301") == "e\u0301"
    assert Cleaner(Clean(whitespace=False)).text(" a  b\r\n") == " a  b\r\n".replace("\r", "")
    assert Cleaner(Clean(whitespace=False, control=False)).text(" a\x00  b\r\n") == " a\x00  b\r\n"
    assert Cleaner(Clean(lowercase=True)).text("ÀB") == "àb"


def test_nul_is_counted() -> None:
    cleaner = Cleaner(Clean())
    cleaner.text("a\x00b\x00")
    assert cleaner.nul == 2


def test_turns_of_a_conversation_are_cleaned_and_roles_are_not() -> None:
    cleaner = Cleaner(Clean(lowercase=True))
    assert cleaner.value([{"role": "User", "content": "A  B"}]) == [{"role": "User", "content": "a b"}]


def test_the_fast_path_for_ascii_gives_the_same_text() -> None:
    pieces = ["a", "B", " ", "\n", "\t", "\r", "\x00", "\x1f", "\x7f", "\v"]
    for spec in (Clean(), Clean(lowercase=True), Clean(whitespace=False), Clean(control=False)):
        cleaner = Cleaner(spec)
        for parts in itertools.product(pieces, repeat=4):
            text = "".join(parts)
            # The accent makes the whole text take the long way.
            assert cleaner.text(f"é{text}é") == f"é{cleaner.text(f'x{text}x')[1:-1]}é"


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301\u0316" * 100_000,
        " " * 400_000 + "a",
        ("\n" * 3 + " ") * 100_000,
        "\r" * 400_000,
        "\u3000 " * 200_000,
        "é" * 400_000,
        "\U0001e8d0\U0001e94a" * 100_000,
    ],
    ids=["marks", "blanks", "blank lines", "returns", "mixed blanks", "composed", "marks of plane 1"],
)
def test_time_is_linear(text: str) -> None:
    cleaner = Cleaner(Clean())
    cleaner.text(text[:10] + "e\u0301" * 2)
    begin = time.process_time()
    cleaner.text(text)
    # Quadratic rules take minutes here.
    assert time.process_time() - begin < 2
