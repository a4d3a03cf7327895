"""Accuracy and macro F1 of labels. Labels are compared as text, without the blanks around them."""

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
"""Each predicted text that is no reference's label costs a number in every row; so many are no labels at all."""


class Accuracy:
    """Share of predictions equal to a reference. A row is [right, 1]."""

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedAccuracy:
        """Count the references. Raises `DataError` where an answer has none."""
        return FittedAccuracy(count_references(answers))


@dataclass(frozen=True, slots=True)
class FittedAccuracy:
    count: int
    """References of each answer."""

    def measure(self, answer: Answer) -> Statistics:
        return [float(answer.prediction.strip() in {label.strip() for label in answer.references}), 1.0]

    def score(self, total: Statistics) -> Mapping[str, float]:
        right, count = total
        return {"accuracy": right / count}

    def signature(self) -> Signature:
        return signed(self.count).with_(case="mixed")


class MacroF1:
    """The unweighted mean of F1 over every label that is in a reference or a prediction.

    This is scikit-learn's `f1_score(average="macro")` with its default labels, sorted(y_true ∪ y_pred). A row holds,
    for L labels of references and S strays (predicted, but no reference's label): L × true positives, then L × times
    right, then L + S × times predicted. A stray's F1 is 0, it counts in the mean alone.
    """

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def prepare(self, answers: Sequence[Answer]) -> FittedMacroF1:
        """Close the set of labels. Raises `DataError` for no or several references, or for far too many labels."""
        count = count_references(answers)
        for number, answer in enumerate(answers, start=1):
            if len(answer.references) > 1:
                raise DataError(
                    f"macro_f1 takes one label a row, not {len(answer.references)}",
                    where=f"row {number} (id {answer.id})",
                    hint="accuracy takes several",
                )
        known = sorted({answer.references[0].strip() for answer in answers})
        strays = sorted({answer.prediction.strip() for answer in answers} - set(known))
        if len(strays) > _MOST_STRAYS:
            raise DataError(
                f"{len(strays)} different predictions are no reference's label, {strays[0][:40]!r} for one",
                hint="are these labels? for free text use exact_match or f1",
            )
        return FittedMacroF1(
            count,
            known={label: place for place, label in enumerate(known)},
            place={label: place for place, label in enumerate([*known, *strays])},
        )


@dataclass(frozen=True, slots=True)
class FittedMacroF1:
    count: int
    """References of each answer."""
    known: Mapping[str, int]
    """The place of each label of the references."""
    place: Mapping[str, int]
    """The place of each label, strays after the others."""

    def measure(self, answer: Answer) -> Statistics:
        labels = len(self.known)
        right, predicted = answer.references[0].strip(), answer.prediction.strip()
        row = [0.0] * (2 * labels + len(self.place))
        row[self.known[right]] = float(right == predicted)
        row[labels + self.known[right]] = 1.0
        row[2 * labels + self.place[predicted]] = 1.0
        return row

    def score(self, total: Statistics) -> Mapping[str, float]:
        labels = len(self.known)
        hits, right, predicted = total[:labels], total[labels : 2 * labels], total[2 * labels :]
        # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (times right + times predicted)
        f1 = [
            2 * hit / (is_right + is_predicted)
            for hit, is_right, is_predicted in zip(hits, right, predicted, strict=False)
            if is_right + is_predicted
        ]
        seen = len(f1) + sum(1 for times in predicted[labels:] if times)
        return {"macro_f1": sum(f1) / seen}

    def signature(self) -> Signature:
        return signed(self.count).with_(case="mixed", labels="references+predictions", mean="macro")
