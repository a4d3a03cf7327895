"""What every text metric asks of its answers first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from llmctl.errors import DataError
from llmctl.metrics.script import Script, script_of
from llmctl.metrics.signature import Signature
from llmctl.types import Answer

VARIES = -1
"""sacrebleu's mark for a number of references that differs from row to row; its signature says `nrefs:var`."""


def count_references(answers: Sequence[Answer]) -> int:
    """The number of references of each answer, or `VARIES`. Raises `DataError` where an answer has none."""
    for number, answer in enumerate(answers, start=1):
        if not answer.references:
            raise DataError(
                "nothing to compare the answer with: it has no reference",
                where=f"row {number} (id {answer.id})",
                hint="give every row a reference, or leave the row out",
            )
    counts = {len(answer.references) for answer in answers}
    if not counts:
        raise DataError("no rows to score")
    return counts.pop() if len(counts) == 1 else VARIES


def signed(count: int) -> Signature:
    """The number of references, with which every signature of a text metric begins."""
    return Signature({"nrefs": "var" if count == VARIES else str(count)})


def reference_script(answers: Sequence[Answer]) -> Script:
    """The script of all references together."""
    return script_of(chain.from_iterable(answer.references for answer in answers))
