"""Bounds on the form of a text: length, symbols, repetition, boilerplate. Sources of each rule: `FILTERS` in `spec.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from llmctl.data.filters.spec import Filter, Passage, Quality, Reading, Verdict
from llmctl.readable import number

NGRAM: Final = 5
"""Words of the n-grams whose repetition is measured; Gopher measures 5 to 10."""
PAIR: Final = ("source", "target")
"""Roles of the two sides of a pair."""

_SYMBOL: Final = re.compile(
    r"\.{3,}|[\u2026#@*\\$+<=>^`|~_\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00d7\u00f7\u2020\u2021\u20a0-\u20bf\u2100-\u214f"
    r"\u2190-\u2bff\u3004\u3012\u3013\u3020\u3036\u303f\uff03\uff04\uff0a\uff0b\uff1c-\uff1e\uff20\uff3e\uff40\uff5c\uff5e"
    r"\ufffd\U0001f000-\U0001faff]"
)
"""Characters of Unicode's categories of symbols, with # @ * \\ _; an ellipsis counts once, as in Gopher."""
_LINE_END: Final = re.compile(r"[.!?…。！？；：;:\"'”’」』）)》】]\s*$")
_BOILERPLATE: Final = re.compile(
    # C4, section 2.2: placeholders, and lines about cookies, policies and JavaScript; menus and footers in both languages.
    r"lorem ipsum|javascript|cookies?\b.*\b(?:accept|agree|consent|experience|polic|sett|use)|accept (?:all )?cookies|use of cookies"
    r"|privacy policy|terms (?:of|and) (?:use|service|conditions)|all rights reserved|©|\(c\) ?(?:19|20)\d\d|copyright \d"
    r"|(?:click|tap) here|read more|sign (?:in|up)\b|log ?in\b|subscribe (?:to|now)|our newsletter|share (?:this|on)"
    r"|follow us|back to (?:the )?top|skip to (?:main )?content|powered by|page not found|home ?[|>»] "
    r"|版权所有|保留所有权利|备案号?|[京沪粤浙苏]icp备|隐私(?:政策|权)|用户协议|服务条款|免责声明|转载请注明|关注(?:我们|微信|公众号)"
    r"|扫(?:一扫|描)?.{0,4}二维码|点击(?:这里|此处|查看|阅读|下载)|阅读全文|上一篇|下一篇|返回(?:顶部|首页)|相关(?:阅读|推荐)"
    r"|首页 ?[|>»]|登录 ?[|/丨]? ?注册|分享到|联系我们|网站地图|友情链接",
    re.IGNORECASE,
)

Measure = Callable[[Reading], float | None]


class QualityFilter(Filter):
    """Drops a record out of bounds. The length is that of the whole record; every other bound holds for each text of it."""

    def __init__(self, settings: Quality) -> None:
        self._rules = [(name, bound, *MEASURES[name]) for name, bound in settings.bounds().items()]

    def judge(self, reading: Reading) -> Verdict | None:
        for name, bound, measure, unit in self._rules:
            value = measure(reading)
            if value is None:
                continue
            if name.startswith("min_"):
                if value < bound:
                    return Verdict(f"quality.{name}", f"{number(value)} {unit}, fewer than {number(bound)}")
            elif value > bound:
                return Verdict(f"quality.{name}", f"{number(value)} {unit}, more than {number(bound)}")
        return None


def _words(reading: Reading) -> float:
    return sum(len(each.words) for each in reading.passages)


def _worst(measure: Callable[[Passage], float], choose: Callable[..., float] = max) -> Measure:
    return lambda reading: choose(map(measure, reading.passages), default=None)


def _symbols(passage: Passage) -> float:
    """Symbols per word; a text without words has as many as symbols."""
    found = len(_SYMBOL.findall(passage.text))
    return found / max(len(passage.words), 1) if found else 0.0


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.split("\n")) if line]


def _repeated_lines(passage: Passage) -> float:
    lines = _lines(passage.text)
    return 1 - len(set(lines)) / len(lines) if len(lines) > 1 else 0.0


def _repeated_ngrams(passage: Passage) -> float:
    """The share of words in an n-gram that occurred before."""
    words = passage.words
    if len(words) <= NGRAM:
        return 0.0
    ngrams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    if len(set(ngrams)) == len(ngrams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = covered = 0
    for start, ngram in enumerate(ngrams):
        if ngram in seen:
            repeated += start + NGRAM - max(start, covered)
            covered = start + NGRAM
        seen.add(ngram)
    return repeated / len(words)


def _boilerplate(passage: Passage) -> float:
    if not _BOILERPLATE.search(passage.text):
        return 0.0
    lines = _lines(passage.text)
    return sum(_BOILERPLATE.search(line) is not None for line in lines) / len(lines)


def _line_ends(passage: Passage) -> float:
    lines = _lines(passage.text)
    return sum(_LINE_END.search(line[-4:]) is not None for line in lines) / len(lines) if lines else 1.0


def _length_ratio(reading: Reading) -> float | None:
    sides = [len(each.words) for each in reading.passages if each.role in PAIR]
    return max(sides) / max(min(sides), 1) if len(sides) == len(PAIR) else None


MEASURES: Final[Mapping[str, tuple[Measure, str]]] = {
    "min_words": (_words, "words"),
    "max_words": (_words, "words"),
    "max_symbol_ratio": (_worst(_symbols), "symbols per word"),
    "max_repeated_lines": (_worst(_repeated_lines), "of the lines repeat an earlier one"),
    "max_repeated_ngrams": (_worst(_repeated_ngrams), f"of the words are in a repeated {NGRAM}-gram"),
    "max_boilerplate": (_worst(_boilerplate), "of the lines are boilerplate"),
    "min_line_ends": (_worst(_line_ends, min), "of the lines end in punctuation"),
    "max_length_ratio": (_length_ratio, "times the length of the other side"),
}
