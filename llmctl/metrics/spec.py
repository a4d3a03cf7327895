"""The metric interface: an additive row per answer, and a pure scoring step over a sum of rows.

Corpus scores, scores of single answers, bootstrap intervals and paired tests sum the same rows in different ways
(after the design of sacrebleu, Post 2018, arXiv:1804.08771).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import StrictBool, StrictFloat, StrictInt, ValidationInfo, field_validator

from llmctl.config import Spec, UsageValueError, key
from llmctl.metrics.signature import Signature
from llmctl.types import Answer

Statistics = Sequence[float]
"""Additive statistics of one answer; all rows of a metric have the same length."""


class Metric(Protocol):
    """A metric built with its options, not yet fitted to answers."""

    def prepare(self, answers: Sequence[Answer]) -> FittedMetric:
        """Inspect all answers before measuring. This fixes everything that depends on the full set (the script and
        number of references, the set of labels), and therefore the signature."""
        ...


class FittedMetric(Protocol):
    """A metric fitted to a set of answers. Two values are comparable if their `signature`s are equal."""

    def measure(self, answer: Answer) -> Statistics:
        """The additive row of one answer."""
        ...

    def score(self, total: Statistics) -> Mapping[str, float]:
        """Values by score name, from summed rows. Pure."""
        ...

    def signature(self) -> Signature: ...


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its input, its scores, its options and its implementation."""

    name: str
    scores: tuple[str, ...]
    """Names of its scores: `rouge` yields rouge1, rouge2, rougeL and rougeLsum."""
    scale: str
    output_type: Literal["text", "likelihood", "preference"]
    higher_is_better: bool
    options: type[Spec]
    reference: str
    implementation: str
    primary: str | None = None
    """The score that the metric's name stands for; default: the first."""
    needs_spaces: bool = False
    """Whether it counts words between spaces. Where the references are in a script without them, it is no default."""
    counts_bytes: bool = False
    """Whether the likelihood is normalised by the bytes of the predicted text instead of its tokens."""

    def build(self, options: Spec | None = None) -> Metric:
        """Build the metric with the given options or its defaults."""
        module, _, attribute = self.implementation.partition(":")
        metric: Metric = getattr(importlib.import_module(module), attribute)(options or self.options())
        return metric


class NoOptions(Spec):
    """A metric without settings."""


class BleuOptions(Spec):
    tokenize: Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"] | None = key(
        None, "tokenizer; default: chosen by the script of the references"
    )
    lowercase: StrictBool = key(False, "fold case")
    effective_order: StrictBool = key(False, "leave out n-gram orders longer than the texts; for single short texts")
    smooth: Literal["exp", "floor", "add-k", "none"] = key("exp", "smoothing of zero counts")


class ChrfOptions(Spec):
    word_order: StrictInt = key(0, "word n-gram order; 2 is chrF++", ge=0)
    beta: StrictInt = key(2, "weight of recall", ge=1)
    lowercase: StrictBool = key(False, "fold case")


class TerOptions(Spec):
    normalized: StrictBool | None = key(
        None, "normalise and tokenize as TERCOM does; default: the value of asian_support"
    )
    asian_support: StrictBool | None = key(
        None, "split Chinese and Japanese into characters during normalisation; default: chosen by the script"
    )
    case_sensitive: StrictBool = key(False, "keep case")

    @field_validator("asian_support")
    @classmethod
    def _works(cls, asian_support: bool | None, info: ValidationInfo) -> bool | None:
        if asian_support and info.data.get("normalized") is False:
            raise UsageValueError("has no effect without normalisation", "set normalized=true, or omit it")
        return asian_support


class RougeOptions(Spec):
    tokenize: Literal["default", "char", "unicode"] | None = key(
        None,
        "`default`: the tokenizer of rouge-score, which keeps only a-z and 0-9; `char` and `unicode`: one token per "
        "character of scripts without spaces (Chinese, Thai), and words of all letters; default: by each reference's script",
    )
    stemmer: StrictBool = key(False, "apply Porter stemming to English words")


class AnswerOptions(Spec):
    normalize: StrictBool = key(True, "ignore case, punctuation, articles and whitespace when comparing")


class ErrorRateOptions(Spec):
    normalize: Literal["none", "basic", "english"] = key(
        "none",
        "text normalisation before comparing: none; `basic`: Whisper's for every language (case, punctuation and brackets "
        "removed); `english`: Whisper's for English (also contractions, numbers and titles; without its table of spellings)",
    )


class IntervalSpec(Spec):
    """Settings of the confidence interval."""

    level: StrictFloat = key(0.95, "confidence level", gt=0, lt=1)
    resamples: StrictInt = key(1000, "number of bootstrap resamples; 0: no interval", ge=0)


def _text(name: str, implementation: str, options: type[Spec], reference: str, **more: Any) -> MetricSpec:
    settings: dict[str, Any] = {
        "scores": (name,),
        "scale": "0-1",
        "output_type": "text",
        "higher_is_better": True,
    } | more
    return MetricSpec(name=name, options=options, reference=reference, implementation=implementation, **settings)


BLEU = _text(
    "bleu",
    "llmctl.metrics.translation:Bleu",
    BleuOptions,
    "Papineni et al. 2002; sacrebleu, Post 2018, arXiv:1804.08771",
    scale="0-100",
)
CHRF = _text("chrf", "llmctl.metrics.translation:Chrf", ChrfOptions, "Popović 2015; sacrebleu", scale="0-100")
TER = _text(
    "ter",
    "llmctl.metrics.translation:Ter",
    TerOptions,
    "Snover et al. 2006; sacrebleu",
    scale="0-100, more possible",
    higher_is_better=False,
)
ROUGE = _text(
    "rouge",
    "llmctl.metrics.rouge:Rouge",
    RougeOptions,
    "Lin 2004; rouge-score",
    scores=("rouge1", "rouge2", "rougeL", "rougeLsum"),
    primary="rougeL",
)
ACCURACY = _text("accuracy", "llmctl.metrics.labels:Accuracy", NoOptions, "fraction of predictions equal to the label")
MACRO_F1 = _text("macro_f1", "llmctl.metrics.labels:MacroF1", NoOptions, "unweighted mean of F1 over the labels seen")
EXACT_MATCH = _text(
    "exact_match", "llmctl.metrics.answers:ExactMatch", AnswerOptions, "Rajpurkar et al. 2016, arXiv:1606.05250"
)
F1 = _text("f1", "llmctl.metrics.answers:TokenF1", AnswerOptions, "Rajpurkar et al. 2016, arXiv:1606.05250")
WER = _text(
    "wer",
    "llmctl.metrics.error_rates:WordErrorRate",
    ErrorRateOptions,
    "edits per word of the references; equal to jiwer",
    scale="0-1, more possible",
    higher_is_better=False,
    needs_spaces=True,
)
CER = _text(
    "cer",
    "llmctl.metrics.error_rates:CharacterErrorRate",
    ErrorRateOptions,
    "edits per character of the references; equal to jiwer",
    scale="0-1, more possible",
    higher_is_better=False,
)
PERPLEXITY = _text(
    "perplexity",
    "llmctl.metrics.likelihood:Perplexity",
    NoOptions,
    "exp(-log p / tokens)",
    scale="perplexity",
    output_type="likelihood",
    higher_is_better=False,
)
BITS_PER_BYTE = _text(
    "bits_per_byte",
    "llmctl.metrics.likelihood:BitsPerByte",
    NoOptions,
    "-log2 p / UTF-8 bytes",
    scale="bits",
    output_type="likelihood",
    higher_is_better=False,
    counts_bytes=True,
)
REWARD_ACCURACY = _text(
    "reward_accuracy",
    "llmctl.metrics.preference:RewardAccuracy",
    NoOptions,
    "Rafailov et al. 2023, arXiv:2305.18290: share of pairs whose preferred answer has the larger reward",
    output_type="preference",
)
REWARD_MARGIN = _text(
    "reward_margin",
    "llmctl.metrics.preference:RewardMargin",
    NoOptions,
    "Rafailov et al. 2023, arXiv:2305.18290: mean difference of the rewards of a pair",
    scale="nats",
    output_type="preference",
)
