"""Filters of `preprocess`: their settings, their table, and what a filter is. The filters themselves are loaded late.

A filter is a file beside this one with a subclass of `Filter`, and a row in `FILTERS`. It sees one record at a time and
remembers nothing of it, so that any process may apply it and the result does not depend on their number or order.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, NamedTuple

from pydantic import StrictFloat, StrictInt

from llmctl.config import Spec, UsageValueError, key
from llmctl.script import units_of
from llmctl.types import Role, Segment


class Passage:
    """One text of a record: a document, a side of a pair, a turn of a conversation."""

    def __init__(self, role: Role, text: str) -> None:
        self.role, self.text = role, text

    @cached_property
    def words(self) -> list[str]:
        """Its words; characters of scripts without blanks between words."""
        return units_of(self.text)


class Reading:
    """What filters see of a record: its cleaned texts but the label, and their words, found once for all filters."""

    def __init__(self, segments: Sequence[Segment], *, held_out: bool = False) -> None:
        """`held_out`: the record is in a file that is named after validation or test."""
        self.passages = [Passage(each.role, each.text) for each in segments if each.role != "label" and each.text]
        self.held_out = held_out


class Verdict(NamedTuple):
    """What a filter found in a record."""

    reason: str
    """The name that the record is counted under: the setting that decided, `pii` or `quality.max_symbol_ratio`."""
    why: str
    """What was measured, for the report: `0.31 symbols per word, more than 0.1`."""
    drops: bool = True
    """False: the record stays, and is counted as one in which this was found."""
    counts: Mapping[str, int] = {}
    """Further counts of what was found: `{"pii.email": 2}`."""


class Filter(ABC):
    """Judges one record by its content."""

    rewrites: bool = False
    """Whether `rewrite` changes the texts of a record with a verdict that does not drop it."""

    @abstractmethod
    def judge(self, reading: Reading) -> Verdict | None:
        """What is wrong with the record; None: nothing."""

    def rewrite(self, text: str) -> str:
        """The text without what was found."""
        return text


# ---------------------------------------------------------------------------------------------------------------
# Settings


class Quality(Spec):
    """Bounds on the form of a text; None: no bound. A word is a character in scripts without blanks between words."""

    shorthand: ClassVar[str | None] = "preset"

    preset: Literal["none", "web"] = key(
        "none", "web: the published bounds named below, for pages of the web; keys that are set replace them"
    )
    min_words: StrictInt | None = key(None, "drop texts of fewer words (Gopher: 50)", ge=1)
    max_words: StrictInt | None = key(None, "drop texts of more words (Gopher: 100,000)", ge=1)
    max_symbol_ratio: StrictFloat | None = key(
        None,
        "drop texts with more symbols per word: #, … and all that is no letter, digit or punctuation (Gopher: 0.1)",
        ge=0,
    )
    max_repeated_lines: StrictFloat | None = key(
        None, "drop texts with a larger share of lines that repeat an earlier line (Gopher: 0.3)", ge=0, le=1
    )
    max_repeated_ngrams: StrictFloat | None = key(
        None, "drop texts with a larger share of words in 5-grams that repeat an earlier one (Gopher: 0.15)", ge=0, le=1
    )
    max_boilerplate: StrictFloat | None = key(
        None,
        "drop texts with a larger share of lines from the frame of a web page: cookies, menus, copyright, placeholders "
        "(after C4, which drops such lines)",
        ge=0,
        le=1,
    )
    min_line_ends: StrictFloat | None = key(
        None, "drop texts with a smaller share of lines that end in punctuation (FineWeb: 0.12)", ge=0, le=1
    )
    max_length_ratio: StrictFloat | None = key(
        None, "for pairs: drop those with one side this many times longer, in words of its script (Moses: 9)", ge=1
    )

    def bounds(self) -> dict[str, float]:
        """The bounds that hold, by key."""
        found = WEB if self.preset == "web" else {}
        own = {name: value for name, value in self.model_dump(exclude={"preset"}).items() if value is not None}
        return {**found, **own}


WEB: Final[Mapping[str, float]] = {
    "min_words": 50,
    "max_words": 100_000,
    "max_symbol_ratio": 0.1,
    "max_repeated_lines": 0.3,
    "max_repeated_ngrams": 0.15,
    "max_boilerplate": 0.3,
    "min_line_ends": 0.12,
}
"""The bounds of the preset `web`."""


LANGUAGES: Final = frozenset(
    [
        "af",
        "am",
        "an",
        "ar",
        "as",
        "az",
        "be",
        "bg",
        "bn",
        "br",
        "bs",
        "ca",
        "cs",
        "cy",
        "da",
        "de",
        "dz",
        "el",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fo",
        "fr",
        "ga",
        "gl",
        "gu",
        "he",
        "hi",
        "hr",
        "ht",
        "hu",
        "hy",
        "id",
        "is",
        "it",
        "ja",
        "jv",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "ku",
        "ky",
        "la",
        "lb",
        "lo",
        "lt",
        "lv",
        "mg",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "nb",
        "ne",
        "nl",
        "nn",
        "no",
        "oc",
        "or",
        "pa",
        "pl",
        "ps",
        "pt",
        "qu",
        "ro",
        "ru",
        "rw",
        "se",
        "si",
        "sk",
        "sl",
        "sq",
        "sr",
        "sv",
        "sw",
        "ta",
        "te",
        "th",
        "tl",
        "tr",
        "ug",
        "uk",
        "ur",
        "vi",
        "vo",
        "wa",
        "xh",
        "zh",
        "zu",
    ]
)
"""ISO 639-1 codes that py3langid knows."""
COMMON: Final = frozenset(
    [
        "ar",
        "bg",
        "bn",
        "ca",
        "cs",
        "da",
        "de",
        "el",
        "en",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fr",
        "he",
        "hi",
        "hr",
        "hu",
        "id",
        "it",
        "ja",
        "ko",
        "lt",
        "lv",
        "ms",
        "nl",
        "no",
        "pl",
        "pt",
        "ro",
        "ru",
        "sk",
        "sl",
        "sr",
        "sv",
        "sw",
        "ta",
        "te",
        "th",
        "tl",
        "tr",
        "uk",
        "ur",
        "vi",
        "zh",
    ]
)
"""Languages that a text is taken to be in unless others are asked for: rare ones are mistaken for them more often than met."""

Languages = tuple[str, ...] | dict[str, tuple[str, ...]]
"""Languages that are allowed, for every text or by role."""


def known_languages(value: Any) -> Any:
    """`[zh, en]`, or by side `{source: en, target: [zh, en]}`; raises `UsageValueError` for an unknown one."""
    if isinstance(value, Mapping):
        return {str(role): known_languages(each) for role, each in value.items()}
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise UsageValueError("must be a list of languages", "write [zh, en], or {source: en, target: zh}")
    for name in names:
        if name not in LANGUAGES:
            raise UsageValueError(f"{name!r} is not a known language", "codes of ISO 639-1: en, zh, de, fr, …")
    return tuple(names)


Pii = Literal["off", "keep", "mask", "drop"]


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One row of the table."""

    setting: str
    """The key of `preprocess` that holds its settings."""
    load: str
    """module:class; the class takes the value of the setting."""
    reasons: tuple[str, ...]
    """Names that it counts records under."""
    off: Any
    """The value of the setting that turns it off."""
    sources: tuple[str, ...] = field(default=())
    """Publications that its rules and thresholds are from."""

    def open(self, value: Any) -> Filter:
        """The filter with these settings; imports it."""
        module, _, name = self.load.partition(":")
        found: Filter = getattr(importlib.import_module(module), name)(value)
        return found


FILTERS: Final = (
    FilterRow(
        "languages",
        "llmctl.data.cleaning.filters.languages:LanguageFilter",
        ("languages",),
        (),
        ("Lui and Baldwin 2012, langid.py; its model in py3langid (97 languages)",),
    ),
    FilterRow(
        "quality",
        "llmctl.data.cleaning.filters.quality:QualityFilter",
        tuple(f"quality.{name}" for name in Quality.model_fields if name != "preset"),
        Quality.defaults(),
        (
            "Rae et al. 2021, Scaling Language Models (Gopher), table A1",
            "Raffel et al. 2020, Exploring the Limits of Transfer Learning (C4), section 2.2",
            "Penedo et al. 2024, The FineWeb Datasets, section 3.6",
            "Koehn et al. 2007, Moses, clean-corpus-n.perl (ratio of lengths)",
        ),
    ),
    FilterRow(
        "decontaminate",
        "llmctl.data.cleaning.filters.decontaminate:DecontaminationFilter",
        ("decontaminate",),
        (),
        ("Brown et al. 2020, Language Models are Few-Shot Learners, appendix C (13-grams)",),
    ),
    FilterRow(
        "pii",
        "llmctl.data.cleaning.filters.pii:PiiFilter",
        ("pii",),
        "off",
        (
            "GB 11643-1999 (resident IDs), ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN)",
            "Penedo et al. 2024, The FineWeb Datasets, section 3.7",
        ),
    ),
)
"""All filters, in the order in which they judge a record: the first that drops it gives the reason."""


def open_filters(settings: Mapping[str, Any]) -> list[Filter]:
    """The filters that the settings of `preprocess` turn on, in order."""
    return [row.open(settings[row.setting]) for row in FILTERS if settings[row.setting] != row.off]
