"""Preference pairs as training examples: two sequences with the same prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmctl.data.examples.batches import Arrays, collate
from llmctl.data.examples.layout import Layout
from llmctl.data.storing.tokens import TokenStore
from llmctl.types import Role, Tokens

_AS_SOURCE: Mapping[Role, Role] = {"system": "source", "user": "source", "assistant": "target"}


def sides(parts: Sequence[Tokens], answer_role: Role) -> tuple[list[Tokens], list[Tokens]]:
    """The segments with the preferred answer, and with the other one, in the roles of the task that the model answers.

    `answer_role`: of that task. Unless it is a conversation (`assistant`), the turns of the prompt are its sources.
    """
    chosen = [part for part in parts if part.role != "rejected"]
    rejected = [*chosen[:-1], *(part._replace(role="assistant") for part in parts if part.role == "rejected")]
    if answer_role == "assistant":
        return chosen, rejected
    return _as_sources(chosen), _as_sources(rejected)


def _as_sources(parts: Sequence[Tokens]) -> list[Tokens]:
    return [part._replace(role=_AS_SOURCE.get(part.role, part.role)) for part in parts]


@dataclass(frozen=True)
class Pairs:
    """One pair per example: 2·B rows of a batch of B. A pair of which a sequence exceeds the context is left out: both
    answers must be given the same prompt."""

    store: TokenStore
    layout: Layout
    pad: int
    answer_role: Role
    """The role of an answer in the task that the model answers."""
    reference: NDArray[np.float32] | None = None
    """(examples, 2) log-probabilities of both answers by the reference model."""

    @functools.cached_property
    def kept(self) -> NDArray[np.int64]:
        """The index in the store of each example."""
        return np.array([index for index in range(len(self.store)) if self.fits(index)], np.int64)

    @property
    def left_out(self) -> int:
        """Number of pairs that exceed the context."""
        return len(self.store) - len(self)

    def places(self, indices: Sequence[int]) -> list[int]:
        """The index in the store of each of these examples."""
        return [int(self.kept[index]) for index in indices]

    def __len__(self) -> int:
        return len(self.kept)

    def lengths(self) -> NDArray[np.int64]:
        tokens = self.store.segments[self.store.records]
        return np.asarray(np.diff(tokens).astype(np.int64)[self.kept])

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> Arrays:
        """The arrays of `collate` with 2·B rows, the preferred answers first; `reference` (2·B,) float32, if known."""
        both = [self.sides(index) for index in self.places(indices)]
        samples = [self.layout.sample(pair[side]) for side in (0, 1) for pair in both]
        arrays = collate(samples, self.layout.family, self.pad, context=self.layout.context)
        if self.reference is not None:
            arrays["reference"] = self.reference[list(indices)].T.reshape(-1)
        return arrays

    def fits(self, index: int) -> bool:
        """Whether both sequences of a record of the store fit the context."""
        return all(map(self.layout.fits, self.sides(index)))

    def sides(self, index: int) -> tuple[list[Tokens], list[Tokens]]:
        """The segments of both sequences of a record of the store."""
        return sides(self.store.record(index), self.answer_role)
