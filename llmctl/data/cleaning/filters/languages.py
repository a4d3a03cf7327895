"""The language of a text: by its script where one decides, else by py3langid, whose model is in the package."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any, Final

from llmctl.data.cleaning.filters.spec import COMMON, Filter, Languages, Passage, Reading, Verdict
from llmctl.errors import MissingPackage
from llmctl.script import Script, script_of

CHARACTERS: Final = 500
"""The beginning of a text, by which its language is found."""
LEAST_WORDS: Final = 3
LEAST_LETTERS: Final = 25
"""Texts of fewer words or letters in a script that many languages share say too little about their language: dates, names,
greetings. Identifiers are reliable from about 25 characters on (Jauhiainen, Lindén and Jauhiainen 2017, "Evaluation of
language identification methods using 285 languages"; Vatanen, Väyrynen and Virpioja 2010 on 5 to 21 characters)."""
SHARED: Final[Mapping[str, tuple[str, ...]]] = {
    "cyrillic": ("be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "uk"),
    "arabic": ("ar", "fa", "ku", "ps", "ug", "ur"),
    "devanagari": ("hi", "mr", "ne"),
    "bengali": ("as", "bn"),
}
"""Scripts other than Latin that several languages share."""
ALONE: Final = (
    *("am", "dz", "el", "gu", "he", "hy", "ja", "ka", "km", "kn", "ko", "lo", "ml", "or", "pa", "si", "ta", "te", "th"),
    "zh",
)
"""Languages whose script is theirs alone."""
OF_SCRIPT: Final[Mapping[Script, str]] = {"chinese": "zh", "japanese": "ja", "korean": "ko"}
ENGLISH: Final = frozenset(
    [
        "the",
        "and",
        "that",
        "this",
        "with",
        "from",
        "they",
        "which",
        "were",
        "would",
        "their",
        "there",
        "been",
        "you",
        "what",
        "when",
        "will",
        "she",
        "our",
        "your",
        "these",
        "those",
        "could",
        "should",
        "because",
        "about",
        "into",
        "than",
        "then",
    ]
)
"""Function words of English that no other language has: where they abound, the model need not be asked."""
ENGLISH_WORDS: Final = 100
"""Words from the start of a text that are looked at."""
ENGLISH_SHARE: Final = 0.08
NAT_PER_WORD: Final = 1.0
"""How much likelier than the likeliest language allowed, in nats for each word, another one must be."""


class LanguageFilter(Filter):
    """Drops a record with a text in another language than those allowed, and a pair in one language twice."""

    def __init__(self, languages: Languages) -> None:
        self._by_role = languages if isinstance(languages, Mapping) else {}
        self._everywhere = () if isinstance(languages, Mapping) else languages
        named = {name for each in (*self._by_role.values(), self._everywhere) for name in each}
        self._identify = identifier(tuple(sorted(named)))

    def judge(self, reading: Reading) -> Verdict | None:
        found = []
        for passage in reading.passages:
            allowed = self._by_role.get(passage.role, self._everywhere)
            if not allowed:
                continue
            language = self._identify(passage, allowed)
            if language is None:
                continue
            if language not in allowed:
                where = f"{passage.role}: " if len(reading.passages) > 1 else ""
                return Verdict("languages", f"{where}{language}, not {' or '.join(allowed)}")
            found.append((passage.role, language))
        if {role for role, _ in found} == {"source", "target"} and len({language for _, language in found}) == 1:
            return Verdict("languages", f"both sides are {found[0][1]}")
        return None


class Identifier:
    """Finds the language of a text among common ones and those allowed."""

    def __init__(self, languages: tuple[str, ...]) -> None:
        self._languages = languages

    @functools.cached_property
    def _model(self) -> Any:
        """py3langid's model, opened for the first text that needs it: that takes as long as judging a megabyte."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        model.set_languages(sorted({*COMMON, *self._languages}))
        return model

    def __call__(self, passage: Passage, allowed: tuple[str, ...]) -> str | None:
        """An ISO 639-1 code; one of `allowed` unless another is clearly likelier. None: the text says nothing."""
        text = passage.text[:CHARACTERS]
        script: Script = "latin" if text.isascii() else script_of([text])
        letters = sum(map(str.isalpha, text))
        if language := OF_SCRIPT.get(script):
            kanji = language == "zh" and "ja" in allowed and "zh" not in allowed
            return None if kanji and letters < LEAST_LETTERS else language
        words = len(passage.words)
        if words < LEAST_WORDS and script == "latin":
            return None
        if "en" in allowed and script == "latin":
            first = passage.words[:ENGLISH_WORDS]
            if sum(map(ENGLISH.__contains__, first)) >= max(2, ENGLISH_SHARE * len(first)):
                return "en"
        if not letters:
            return None
        best, score = self._model.classify(text)
        if best in allowed:
            return str(best)
        written = "latin" if script == "latin" else _writing(best)
        if letters < LEAST_LETTERS and any(_writing(each) == written for each in allowed):
            return None
        ranked = self._model.rank(text)
        own = next(((name, value) for name, value in ranked if name in allowed), None)
        near = own is not None and score - own[1] < NAT_PER_WORD * min(words, 20)
        return str(own[0] if own is not None and near else best)


def _writing(language: str) -> str:
    """The script that a language is written in; the language itself where it has one of its own."""
    if language in ALONE:
        return language
    return next((script for script, languages in SHARED.items() if language in languages), "latin")


@functools.lru_cache(maxsize=4)
def identifier(languages: tuple[str, ...]) -> Any:
    """The identifier for these languages. Raises `MissingPackage`."""
    check_package()
    return Identifier(languages)


def check_package() -> None:
    """Raise `MissingPackage` where py3langid is not installed."""
    if importlib.util.find_spec("py3langid") is None:
        raise MissingPackage("py3langid", needed_for="languages", install="pip install 'llmctl[langid]'")
