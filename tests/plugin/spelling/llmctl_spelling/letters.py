"""Letters in their right place: an answer's row is [right letters, letters]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import Statistics
from llmctl.types import Answer
from llmctl_spelling.spec import LettersOptions


class Letters:
    def __init__(self, options: LettersOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> Letters:
        """Nothing depends on the whole set."""
        return self

    def measure(self, answer: Answer) -> Statistics:
        right, given = self._letters(answer.references[0]), self._letters(answer.prediction)
        return [sum(a == b for a, b in zip(right, given, strict=False)), max(len(right), len(given))]

    def _letters(self, text: str) -> str:
        return text.lower() if self.options.lowercase else text

    def score(self, total: Statistics) -> Mapping[str, float]:
        right, count = total
        return {"letters": right / count}

    def signature(self) -> Signature:
        return Signature({"case": "lc" if self.options.lowercase else "mixed"})
