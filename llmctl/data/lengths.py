"""How long the records of a split are: measured once, kept in the manifest, read by verbs that must answer at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from llmctl.data.spec import CHAT_ROLES, LEARNED
from llmctl.store.prepared import Lengths, Prepared
from llmctl.types import Role

if TYPE_CHECKING:
    from llmctl.data.tokens import TokenStore

_TURNS: Final = tuple(get_args(Role).index(role) for role in CHAT_ROLES)
"""A segment's role where it is a turn of a conversation."""


def lengths_of(prepared: Prepared, split: str) -> Lengths:
    """The lengths of a split that has records: those of the manifest, or, where an older version wrote it, measured.

    Only measuring imports numpy, and raises `IntegrityError` where the token store is not sound.
    """
    known = prepared.manifest.lengths.get(split)
    if known is not None:
        return known
    from llmctl.data.tokens import TokenStore

    return measure(TokenStore.open(prepared.tokens, split))


def measure(store: TokenStore) -> Lengths:
    """The lengths of all records of a split."""
    import numpy as np
    from numpy.typing import NDArray

    def by_record(values: NDArray[np.int64]) -> NDArray[np.int64]:
        """(S,) -> (R,) sums."""
        sums: NDArray[np.int64] = np.append(0, np.cumsum(values))
        return np.diff(sums[store.records])

    sizes = np.diff(store.segments)  # (S,)
    learned = (store.roles & LEARNED) != 0  # (S,)
    marks = np.where(np.isin(store.roles & ~np.uint8(LEARNED), _TURNS), 2, 1)  # (S,)
    given, answers = by_record((sizes + marks) * ~learned), by_record((sizes + marks) * learned)  # (R,)
    return Lengths(
        records=len(store),
        tokens=store.total_tokens,
        learned=int(sizes[learned].sum()),
        marks=int(marks.sum()),
        longest_given=int(given.max(initial=0)),
        longest_learned=int(answers.max(initial=0)),
        longest=int((given + answers).max(initial=0)),
    )
