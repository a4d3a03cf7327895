"""Checks and facts about references that all text metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from llmctl.errors import DataError
from llmctl.metrics.signature import Signature
from llmctl.script import Script, script_of
from llmctl.types import Answer

VARIES = -1
"""sacrebleu's marker for a number of references that varies by row; its signature shows `nrefs:var`."""


def count_references(answers: Sequence[Answer]) -> int:
    """The number of references per answer, or `VARIES`. Raises `DataError` if an answer has none."""
    for number, answer in enumerate(answers, start=1):
        if not answer.references:
            raise DataError(
                "the answer has no reference",
                where=f"row {number} (id {answer.id})",
                hint="add a reference to every row, or remove the row",
            )
    counts = {len(answer.references) for answer in answers}
    if not counts:
        raise DataError("no rows to score")
    return counts.pop() if len(counts) == 1 else VARIES


def signed(count: int) -> Signature:
    """A signature with the number of references, the first field in every text metric."""
    return Signature({"nrefs": "var" if count == VARIES else str(count)})


def reference_script(answers: Sequence[Answer]) -> Script:
    """The script of all references together."""
    return script_of(chain.from_iterable(answer.references for answer in answers))
