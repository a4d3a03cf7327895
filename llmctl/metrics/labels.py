"""Accuracy and macro F1 of labels. Labels are compared as text, ignoring surrounding whitespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmctl.errors import DataError
from llmctl.metrics.references import count_references, signed
from llmctl.metrics.signature import Signature
from llmctl.metrics.spec import NoOptions, Statistics
from llmctl.types import Answer

_MOST_STRAYS: Final = 1000
"""Maximum number of distinct predictions that are not a reference label. Each adds a column to every row, and more than
this many suggest free text rather than labels."""


def _of_one_label(answers: Sequence[Answer]) -> list[str]:
    """A warning where one label is all there is to predict."""
    labels = {label.strip() for answer in answers for label in answer.references}
    if len(labels) != 1 or len(answers) == 1:
        return []
    return [
        f"every reference has the label {labels.pop()!r}: the scores do not show whether the model distinguishes labels"
    ]


class Accuracy:
    """Fraction of predictions equal to a reference. A row is [correct, 1]."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedAccuracy:
        """Count the references. Raises `DataError` if an answer has none."""
        return FittedAccuracy(count_references(answers))

    def warnings(self, answers: Sequence[Answer]) -> list[str]:
        return _of_one_label(answers)


@dataclass(frozen=True, slots=True)
class FittedAccuracy:
    count: int
    """Number of references per answer."""

    def measure(self, answer: Answer) -> Statistics:
        return [float(answer.prediction.strip() in {label.strip() for label in answer.references}), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        right, count = total
        return {"accuracy": right / count}

    def signature(self) -> Signature:
        return signed(self.count).with_(case="mixed")


class MacroF1:
    """The unweighted mean of F1 over every label that occurs in a reference or a prediction.

    This is scikit-learn's `f1_score(average="macro")` with its default labels, sorted(y_true ∪ y_pred). For L reference
    labels and S strays (predicted, but not a reference label), a row holds L true positives, then L reference counts,
    then L + S prediction counts. The F1 of a stray is 0; it only lowers the mean.
    """

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedMacroF1:
        """Fix the set of labels. Raises `DataError` for no or several references, or for too many stray labels."""
        count = count_references(answers)
        for number, answer in enumerate(answers, start=1):
            if len(answer.references) > 1:
                raise DataError(
                    f"macro_f1 takes one label per row, not {len(answer.references)}",
                    where=f"row {number} (id {answer.id})",
                    hint="accuracy accepts several labels",
                )
        known = sorted({answer.references[0].strip() for answer in answers})
        strays = sorted({answer.prediction.strip() for answer in answers} - set(known))
        if len(strays) > _MOST_STRAYS:
            raise DataError(
                f"{len(strays)} distinct predictions are not a reference label, for example {strays[0][:40]!r}",
                hint="for free text use exact_match or f1",
            )
        return FittedMacroF1(
            count,
            known={label: index for index, label in enumerate(known)},
            index={label: index for index, label in enumerate([*known, *strays])},
        )

    def warnings(self, answers: Sequence[Answer]) -> list[str]:
        return _of_one_label(answers)


@dataclass(frozen=True, slots=True)
class FittedMacroF1:
    count: int
    """Number of references per answer."""
    known: Mapping[str, int]
    """Index of each reference label."""
    index: Mapping[str, int]
    """Index of each label, strays last."""

    def measure(self, answer: Answer) -> Statistics:
        labels = len(self.known)
        right, predicted = answer.references[0].strip(), answer.prediction.strip()
        row = [0.0] * (2 * labels + len(self.index))
        row[self.known[right]] = float(right == predicted)
        row[labels + self.known[right]] = 1.0
        row[2 * labels + self.index[predicted]] = 1.0
        return row

    def score(self, total: Statistics) -> Mapping[str, float]:
        labels = len(self.known)
        hits, right, predicted = total[:labels], total[labels : 2 * labels], total[2 * labels :]
        # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (times in references + times predicted)
        f1 = [
            2 * hit / (is_right + is_predicted)
            for hit, is_right, is_predicted in zip(hits, right, predicted, strict=False)
            if is_right + is_predicted
        ]
        seen = len(f1) + sum(1 for times in predicted[labels:] if times)
        return {"macro_f1": sum(f1) / seen}

    def signature(self) -> Signature:
        return signed(self.count).with_(case="mixed", labels="references+predictions", mean="macro")
