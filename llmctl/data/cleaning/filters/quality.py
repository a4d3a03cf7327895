"""Bounds on the form of a text: length, symbols, repetition, boilerplate. Sources of each rule: `FILTERS` in `spec.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from llmctl.data.cleaning.filters.spec import Filter, Passage, Quality, Reading, Verdict
from llmctl.readable import number

NGRAM: Final = 5
"""Words of the n-grams whose repetition is measured; Gopher measures 5 to 10."""
PAIR: Final = ("source", "target")
"""Roles of the two sides of a pair."""

_ELLIPSIS: Final = "..."
_SYMBOL: Final = re.compile(
    r"[\u2026#@*\\$+<=>^`|~_\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00d7\u00f7\u2020\u2021\u20a0-\u20bf\u2100-\u214f"
    r"\u2190-\u2bff\u3004\u3012\u3013\u3020\u3036\u303f\uff03\uff04\uff0a\uff0b\uff1c-\uff1e\uff20\uff3e\uff40\uff5c\uff5e"
    r"\ufffd\U0001f000-\U0001faff]"
)
"""Characters of Unicode's categories of symbols, with # @ * \\ _ and the ellipsis."""
_LINE_END: Final = re.compile(r"[.!?…。！？；：;:\"'”’」』）)》】]\s*$")
LONGEST_LINE: Final = 200
"""Characters of the longest line that is looked at for boilerplate: menus, notices and footers are short."""
BOILERPLATE: Final = (
    # C4, section 2.2: placeholders, policies, JavaScript; the usual menus and footers of web pages.
    "lorem ipsum", "javascript", "use cookies", "uses cookies", "use of cookies", "accept cookies", "accept all cookies", "cookie policy",
    "cookie settings", "cookie preferences", "privacy policy", "terms of use", "terms of service", "terms and conditions",
    "all rights reserved", "©", "(c) 19", "(c) 20", "copyright 19", "copyright 20", "click here", "tap here", "read more", "sign in",
    "sign up", "log in", "subscribe to", "subscribe now", "our newsletter", "share this", "follow us", "back to top", "skip to content",
    "skip to main content", "powered by", "page not found", "home |", "home >", "home »",
    "版权所有", "保留所有权利", "icp备", "网安备", "隐私政策", "隐私权政策", "用户协议", "服务条款", "免责声明", "转载请注明", "关注我们",
    "关注微信", "微信公众号", "扫描二维码", "扫一扫", "点击这里", "点击此处", "点击查看", "点击下载", "阅读全文", "阅读原文", "上一篇", "下一篇",
    "返回顶部", "返回首页", "相关阅读", "相关推荐", "首页 >", "首页>", "登录 |", "登录|", "登录注册", "分享到", "联系我们", "网站地图", "友情链接",
)  # fmt: skip
"""Phrases of boilerplate, in lower case."""
ASCII_BOILERPLATE: Final = tuple(filter(str.isascii, BOILERPLATE))

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
    found = len(_SYMBOL.findall(passage.text)) + passage.text.count(_ELLIPSIS)
    return found / max(len(passage.words), 1) if found else 0.0


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.split("\n")) if line]


def _repeated_lines(passage: Passage) -> float:
    lines = _lines(passage.text)
    return 1 - len(set(lines)) / len(lines) if len(lines) > 1 else 0.0


def _ngrams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(NGRAM)), strict=False)


def _repeated_ngrams(passage: Passage) -> float:
    """The share of words in an n-gram that occurred before."""
    words = passage.words
    if len(words) <= NGRAM:
        return 0.0
    count = len(words) - NGRAM + 1
    if len(set(_ngrams(words))) == count:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = covered = 0
    for start, ngram in enumerate(_ngrams(words)):
        if ngram in seen:
            repeated += start + NGRAM - max(start, covered)
            covered = start + NGRAM
        seen.add(ngram)
    return repeated / len(words)


def _boilerplate(passage: Passage) -> float:
    lines = _lines(passage.text.lower())
    short = [line for line in lines if len(line) <= LONGEST_LINE]
    together = "\n".join(short)
    phrases = [each for each in (ASCII_BOILERPLATE if together.isascii() else BOILERPLATE) if each in together]
    return sum(any(each in line for each in phrases) for line in short) / len(lines) if phrases else 0.0


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
