"""Length statistics of a split: measured once and stored in the manifest, for verbs that must be fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from llmctl.data.spec import CHAT_ROLES, IN_LOSS
from llmctl.store.prepared import LengthStats, Prepared
from llmctl.types import Role

if TYPE_CHECKING:
    from llmctl.data.tokens import TokenStore

_TURNS: Final = tuple(get_args(Role).index(role) for role in CHAT_ROLES)
"""Indices of the segment roles that are turns of a conversation."""


def lengths_of(prepared: Prepared, split: str) -> LengthStats:
    """The length statistics of a non-empty split: from the manifest, or measured if an older version wrote it.

    Only measuring imports numpy; it raises `IntegrityError` if the token store is damaged.
    """
    known = prepared.manifest.lengths.get(split)
    if known is not None:
        return known
    from llmctl.data.tokens import TokenStore

    return measure(TokenStore.open(prepared.tokens, split))


def histogram(store: TokenStore) -> list[tuple[int, int]]:
    """Records by their tokens of text, in columns of doubling width: (most tokens, records), empty ones in between too."""
    import numpy as np

    sizes = np.diff(store.segments[store.records])
    columns = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    counts = np.bincount(columns)
    first = int(columns.min(initial=len(counts)))
    return [(1 << column, int(counts[column])) for column in range(first, len(counts))]


def measure(store: TokenStore) -> LengthStats:
    """Measure the lengths of all records of a split."""
    import numpy as np
    from numpy.typing import NDArray

    def by_record(values: NDArray[np.int64]) -> NDArray[np.int64]:
        """(S,) -> (R,) sums."""
        sums: NDArray[np.int64] = np.append(0, np.cumsum(values))
        return np.diff(sums[store.records])

    sizes = np.diff(store.segments)  # (S,)
    in_loss = (store.roles & IN_LOSS) != 0  # (S,)
    marks = np.where(np.isin(store.roles & ~np.uint8(IN_LOSS), _TURNS), 2, 1)  # (S,)
    prompts, answers = by_record((sizes + marks) * ~in_loss), by_record((sizes + marks) * in_loss)  # (R,)
    return LengthStats(
        records=len(store),
        tokens=store.total_tokens,
        loss_tokens=int(sizes[in_loss].sum()),
        marks=int(marks.sum()),
        longest_prompt=int(prompts.max(initial=0)),
        longest_target=int(answers.max(initial=0)),
        longest=int((prompts + answers).max(initial=0)),
        seconds=None if store.frames is None else round(float(store.frames.sum()) / 100, 2),
        longest_seconds=None if store.frames is None else float(store.frames.max(initial=0)) / 100,
    )
