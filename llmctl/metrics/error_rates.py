"""Word and character error rate of transcripts: edits / reference length, summed over all answers.

    WER = (S + D + I) / N          substitutions, deletions and insertions of words; N words in the references

The number of edits is the Levenshtein distance, so no alignment is needed. Words and characters are those of jiwer 4:
words are separated by spaces, runs of whitespace count as one space, and CER counts the spaces inside a text.
References without any word make the rate the number of insertions, as in jiwer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from llmctl.metrics.references import count_references, reference_script, signed
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import ErrorRateOptions, Statistics
from llmctl.script import UNSPACED
from llmctl.types import Answer

_BLANKS: Final = re.compile(r"\s\s+")
Normalizer = Callable[[str], str]


class _ErrorRate(ABC):
    """A row is [edits, length of the reference]."""

    name: ClassVar[str]
    unit: ClassVar[str]

    def __init__(self, options: ErrorRateOptions) -> None:
        self.options = options

    @staticmethod
    @abstractmethod
    def units(text: str) -> Sequence[str]:
        """The words or characters of a text."""

    def prepare(self, answers: Sequence[Answer]) -> FittedErrorRate:
        """Raises `DataError` if an answer has no reference."""
        normalized = normalizer(self.options.normalize)
        return FittedErrorRate(
            self.name, self.unit, self.options.normalize, normalized, self.units, count_references(answers)
        )


@dataclass(frozen=True, slots=True)
class FittedErrorRate:
    name: str
    unit: str
    normalize: str
    normalized: Normalizer
    units: Callable[[str], Sequence[str]]
    count: int
    """Number of references per answer."""

    def measure(self, answer: Answer) -> Statistics:
        """The row of the reference with the lowest rate."""
        predicted = self.units(self.normalized(answer.prediction))
        rows = []
        for reference in answer.references:
            right = self.units(self.normalized(reference))
            rows.append([float(edits(right, predicted)), float(len(right))])
        return min(rows, key=_rate)

    def score(self, total: Statistics) -> Mapping[str, float]:
        return {self.name: _rate(total)}

    def signature(self) -> Signature:
        case = "mixed" if self.normalize == "none" else "lc"
        return signed(self.count).with_(case=case, norm=self.normalize, tok=self.unit)


class WordErrorRate(_ErrorRate):
    """WER."""

    name = "wer"
    unit = "blank"

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return [word for word in _BLANKS.sub(" ", text).strip().split(" ") if word]

    def warnings(self, answers: Sequence[Answer]) -> list[str]:
        """A warning where the references have no spaces between words, so that a sentence counts as one word."""
        script = reference_script(answers)
        if script not in UNSPACED:
            return []
        kind = "" if script == "unspaced" else f"are {script} and "
        return [f"wer: the references {kind}have no spaces between words; use cer"]


class CharacterErrorRate(_ErrorRate):
    """CER."""

    name = "cer"
    unit = "char"

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return text.strip()


def edits(right: Sequence[Hashable], predicted: Sequence[Hashable]) -> int:
    """The Levenshtein distance, by Myers' bit vectors: column j of the table of distances is two integers, whose bit i
    says that row i + 1 is one more (`up`), or one less (`down`), than row i.

    Myers 1999, A Fast Bit-Vector Algorithm for Approximate String Matching, as simplified by Hyyrö 2003.
    """
    if not right or not predicted:
        return len(right) + len(predicted)
    everywhere: dict[Hashable, int] = {}
    for number, unit in enumerate(right):
        everywhere[unit] = everywhere.get(unit, 0) | 1 << number
    last, full = 1 << (len(right) - 1), (1 << len(right)) - 1
    up, down, distance = full, 0, len(right)
    for unit in predicted:
        equal = everywhere.get(unit, 0)
        zero = (((equal & up) + up) ^ up) | equal | down  # the diagonal step costs nothing
        more, less = down | ~(zero | up) & full, zero & up  # the step from the column before
        distance += bool(more & last) - bool(less & last)
        more = (more << 1 | 1) & full
        up, down = (less << 1 | ~(zero | more)) & full, zero & more
    return distance


def normalizer(name: str) -> Normalizer:
    """The text normaliser of this name; those of Whisper (Radford et al. 2022, appendix C) are transformers' own."""
    if name == "none":
        return str
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    # The table of British spellings is part of Whisper's tokenizer, not of transformers.
    found: Normalizer = BasicTextNormalizer() if name == "basic" else EnglishTextNormalizer({})
    return found


def _rate(row: Statistics) -> float:
    edits_made, length = row
    return edits_made / length if length else edits_made
