"""Exact match and token F1 for short answers, after SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250.

The definitions are those of SQuAD's evaluation script, version 2.0: the best reference counts; references that are
empty after normalisation are ignored while another remains; an empty side matches only another empty side.
Chinese, Japanese and Korean text is split into characters (SQuAD splits at whitespace) and loses all Unicode
punctuation, including full-width; the signature records which was used.
"""

from __future__ import annotations

import re
import string
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from llmctl.metrics.references import count_references, reference_script, signed
from llmctl.metrics.script import EAST_ASIAN, split_characters
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import AnswerOptions, Statistics
from llmctl.types import Answer

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class _Answers(ABC):
    """A mean over answers: a row is [value, 1]."""

    name: ClassVar[str]

    def __init__(self, options: AnswerOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedAnswers:
        """Choose the tokenization by the script of the references. Raises `DataError` if an answer has no reference."""
        count = count_references(answers)
        by_character = reference_script(answers) in EAST_ASIAN
        return FittedAnswers(self.name, self.compare, self.options.normalize, by_character, count)

    @staticmethod
    @abstractmethod
    def compare(right: Sequence[str], predicted: Sequence[str]) -> float:
        """How well the prediction matches one reference, 0 to 1."""


@dataclass(frozen=True, slots=True)
class FittedAnswers:
    name: str
    compare: Callable[[Sequence[str], Sequence[str]], float]
    normalize: bool
    by_character: bool
    count: int
    """Number of references per answer."""

    def measure(self, answer: Answer) -> Statistics:
        predicted = self.tokens(answer.prediction)
        right = [self.tokens(reference) for reference in answer.references]
        right = [tokens for tokens in right if tokens] or [[]]
        return [max(self.compare(tokens, predicted) for tokens in right), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        value, count = total
        return {self.name: value / count}

    def signature(self) -> Signature:
        removed = "removed-unicode" if self.by_character else "removed"
        facts = {
            "case": "lc" if self.normalize else "mixed",
            "punct": removed if self.normalize else "kept",
            "articles": "removed" if self.normalize else "kept",
            "tok": "char" if self.by_character else "blank",
            "def": "squad-2.0",
        }
        return signed(self.count).with_(**facts)

    def tokens(self, text: str) -> list[str]:
        """The words or characters to compare."""
        if self.normalize:
            text = text.lower()
            text = _without_punctuation(text) if self.by_character else text.translate(_ASCII_PUNCTUATION)
            text = _ARTICLES.sub(" ", text)
        return (split_characters(text) if self.by_character else text).split()


class ExactMatch(_Answers):
    """Fraction of predictions whose tokens equal those of a reference."""

    name = "exact_match"

    @staticmethod
    def compare(right: Sequence[str], predicted: Sequence[str]) -> float:
        return float(right == predicted)


class TokenF1(_Answers):
    """Mean over answers of the token F1 between the prediction and its best reference."""

    name = "f1"

    @staticmethod
    def compare(right: Sequence[str], predicted: Sequence[str]) -> float:
        if not right or not predicted:
            return float(right == predicted)
        shared = (Counter(right) & Counter(predicted)).total()
        return 2 * shared / (len(right) + len(predicted))


def _without_punctuation(text: str) -> str:
    """Remove ASCII punctuation and everything in Unicode's P categories."""
    return "".join(each for each in text.translate(_ASCII_PUNCTUATION) if unicodedata.category(each)[0] != "P")
