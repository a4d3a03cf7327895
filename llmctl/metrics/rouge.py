"""ROUGE by rouge-score: F-measures of each answer, averaged over answers. Lin 2004.

rouge-score keeps only a-z and 0-9, so identical Chinese or Russian texts score 0 with it. For a reference that is not in
Latin script, and the prediction compared with it, its tokenizer is replaced through its own hook; the signature records
this. Each reference decides for itself, so a row's value does not depend on other rows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from llmctl.metrics.references import count_references, signed
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import ROUGE, RougeOptions, Statistics
from llmctl.script import script_of, split_characters
from llmctl.types import Answer

Choice = Literal["default", "char", "unicode"]

_WORD: Final = frozenset("LMN")
"""Unicode general categories that form words: letters, marks, numbers."""


class CharacterTokenizer:
    """One token per character of a script without spaces; ASCII words as in rouge-score; other words unsplit."""

    def __init__(self, words: Any) -> None:
        self._words = words

    def tokenize(self, text: str) -> list[str]:
        spaced = split_characters(text.lower())
        kept = "".join(each if unicodedata.category(each)[0] in _WORD else " " for each in spaced)
        return [token for word in kept.split() for token in (self._words.tokenize(word) if word.isascii() else (word,))]


class Rouge:
    """A row is [rouge1, rouge2, rougeL, rougeLsum, 1]: each F-measure with its best reference, and a count."""

    def __init__(self, options: RougeOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedRouge:
        """Find the tokenizers that the references ask for. Raises `DataError` if an answer has no reference."""
        count = count_references(answers)
        used = sorted({self.choice(reference) for answer in answers for reference in answer.references})
        words = DefaultTokenizer(use_stemmer=self.options.stemmer)
        scorers = {
            each: RougeScorer(list(ROUGE.scores), tokenizer=words if each == "default" else CharacterTokenizer(words))
            for each in used
        }
        stem = "yes" if self.options.stemmer else "no"
        signature = signed(count).with_(tok="+".join(used), stem=stem, mean="f", version=version("rouge-score"))
        return FittedRouge(self.choice, scorers, signature)

    def choice(self, reference: str) -> Choice:
        """The tokenizer for a reference and the prediction compared with it."""
        return self.options.tokenize or ("default" if script_of([reference]) == "latin" else "char")

    def warnings(self, answers: Sequence[Answer]) -> list[str]:
        """A warning where rouge-score's tokenizer drops letters, so that different words may count as equal."""
        if self.options.tokenize is not None:
            return []
        for answer in answers:
            for reference in answer.references:
                if self.choice(reference) != "default":
                    continue
                for word in f"{reference} {answer.prediction}".split():
                    if any(each.isalpha() and not each.isascii() for each in word):
                        return [
                            f"rouge: rouge-score keeps only a-z and 0-9, so {word[:40]!r} loses letters; "
                            "to count them: rouge:tokenize=unicode"
                        ]
        return []


@dataclass(frozen=True, slots=True)
class FittedRouge:
    choice: Callable[[str], Choice]
    scorers: Mapping[Choice, RougeScorer]
    fixed: Signature

    def measure(self, answer: Answer) -> Statistics:
        scored = [
            self.scorers[self.choice(reference)].score(reference, answer.prediction) for reference in answer.references
        ]
        return [*(max(float(each[name].fmeasure) for each in scored) for name in ROUGE.scores), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        return {name: value / total[-1] for name, value in zip(ROUGE.scores, total, strict=False)}

    def signature(self) -> Signature:
        return self.fixed
