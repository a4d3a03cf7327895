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
"""Shorter texts in a script that many languages share have no language that could be found."""
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
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._model.set_languages(sorted({*COMMON, *languages}))

    def __call__(self, passage: Passage, allowed: tuple[str, ...]) -> str | None:
        """An ISO 639-1 code; one of `allowed` unless another is clearly likelier. None: the text says nothing."""
        text = passage.text[:CHARACTERS]
        script: Script = "latin" if text.isascii() else script_of([text])
        if language := OF_SCRIPT.get(script):
            return language
        words = len(passage.words)
        if (words < LEAST_WORDS and script == "latin") or not any(map(str.isalpha, text)):
            return None
        if "en" in allowed and script == "latin":
            first = passage.words[:ENGLISH_WORDS]
            if sum(word in ENGLISH for word in first) >= max(2, ENGLISH_SHARE * len(first)):
                return "en"
        best, score = self._model.classify(text)
        if best in allowed:
            return str(best)
        ranked = self._model.rank(text)
        own = next(((name, value) for name, value in ranked if name in allowed), None)
        near = own is not None and score - own[1] < NAT_PER_WORD * min(words, 20)
        return str(own[0] if own is not None and near else best)


@functools.lru_cache(maxsize=4)
def identifier(languages: tuple[str, ...]) -> Any:
    """The identifier for these languages. Raises `MissingPackage`."""
    check_package()
    return Identifier(languages)


def check_package() -> None:
    """Raise `MissingPackage` where py3langid is not installed."""
    if importlib.util.find_spec("py3langid") is None:
        raise MissingPackage("py3langid", needed_for="languages", install="pip install 'llmctl[langid]'")
