"""ROUGE by rouge-score: F-measures of each answer, averaged over answers. Lin 2004.

rouge-score keeps only a-z and 0-9, so identical Chinese or Russian texts score 0 with it. If the references are not in
Latin script, its tokenizer is replaced through its own hook, and the signature records this.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from llmctl.metrics.references import count_references, reference_script, signed
from llmctl.metrics.script import split_characters
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import ROUGE, RougeOptions, Statistics
from llmctl.types import Answer

_WORD: Final = frozenset("LMN")
"""Unicode general categories that form words: letters, marks, numbers."""


class CharacterTokenizer:
    """One token per Chinese, Japanese or Korean character; ASCII words as in rouge-score; other words unsplit."""

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
        """Choose the tokenizer by the script of the references. Raises `DataError` if an answer has no reference."""
        count = count_references(answers)
        choice = self.options.tokenize or ("default" if reference_script(answers) == "latin" else "char")
        words = DefaultTokenizer(use_stemmer=self.options.stemmer)
        tokenizer = words if choice == "default" else CharacterTokenizer(words)
        scorer = RougeScorer(list(ROUGE.scores), tokenizer=tokenizer)
        stem = "yes" if self.options.stemmer else "no"
        signature = signed(count).with_(tok=choice, stem=stem, mean="f", version=version("rouge-score"))
        return FittedRouge(scorer, signature)


@dataclass(frozen=True, slots=True)
class FittedRouge:
    scorer: RougeScorer
    fixed: Signature

    def measure(self, answer: Answer) -> Statistics:
        best = self.scorer.score_multi(answer.references, answer.prediction)
        return [*(float(best[name].fmeasure) for name in ROUGE.scores), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        return {name: value / total[-1] for name, value in zip(ROUGE.scores, total, strict=False)}

    def signature(self) -> Signature:
        return self.fixed
