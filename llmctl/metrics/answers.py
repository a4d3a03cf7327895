"""Exact match and token F1 for short answers, after SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250.

The definitions are those of SQuAD's evaluation script, version 2.0: the best reference counts; references that are
empty after normalisation are ignored while another remains; an empty side matches only another empty side.
Chinese, Japanese, Korean, Thai and similar text is split into characters (SQuAD splits at whitespace) and loses all
Unicode punctuation, including full-width. Each reference decides for itself and the prediction compared with it, so a
row's value does not depend on other rows; the signature records what was used.
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

from llmctl.metrics.references import count_references, signed
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import AnswerOptions, Statistics
from llmctl.script import SPLIT, script_of, split_characters
from llmctl.types import Answer

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def by_character(reference: str) -> bool:
    """Whether a reference, and the prediction compared with it, are split into characters."""
    return script_of([reference]) in SPLIT


def _used(used: frozenset[bool], words: str, characters: str) -> str:
    """What a signature says: one of the two, or both."""
    return "+".join([words] * (False in used) + [characters] * (True in used))


class _Answers(ABC):
    """A mean over answers: a row is [value, 1]."""

    name: ClassVar[str]

    def __init__(self, options: AnswerOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedAnswers:
        """Find the tokenizations that the references ask for. Raises `DataError` if an answer has no reference."""
        count = count_references(answers)
        used = {by_character(reference) for answer in answers for reference in answer.references}
        return FittedAnswers(self.name, self.compare, self.options.normalize, frozenset(used), count)

    @staticmethod
    @abstractmethod
    def compare(right: Sequence[str], predicted: Sequence[str]) -> float:
        """How well the prediction matches one reference, 0 to 1."""


@dataclass(frozen=True, slots=True)
class FittedAnswers:
    name: str
    compare: Callable[[Sequence[str], Sequence[str]], float]
    normalize: bool
    used: frozenset[bool]
    """Whether references are split into characters: some, all or none."""
    count: int
    """Number of references per answer."""

    def measure(self, answer: Answer) -> Statistics:
        predicted = {each: self.tokens(answer.prediction, each) for each in self.used}
        pairs = []
        for reference in answer.references:
            split = by_character(reference)
            pairs.append((self.tokens(reference, split), predicted[split]))
        pairs = [pair for pair in pairs if pair[0]] or [([], pairs[0][1])]
        return [max(self.compare(right, guess) for right, guess in pairs), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        value, count = total
        return {self.name: value / count}

    def signature(self) -> Signature:
        removed = _used(self.used, "removed", "removed-unicode")
        facts = {
            "case": "lc" if self.normalize else "mixed",
            "punct": removed if self.normalize else "kept",
            "articles": "removed" if self.normalize else "kept",
            "tok": _used(self.used, "blank", "char"),
            "def": "squad-2.0",
        }
        return signed(self.count).with_(**facts)

    def tokens(self, text: str, split: bool) -> list[str]:
        """The words or characters to compare."""
        if self.normalize:
            text = text.lower()
            text = _without_punctuation(text) if split else text.translate(_ASCII_PUNCTUATION)
            text = _ARTICLES.sub(" ", text)
        return (split_characters(text) if split else text).split()


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
