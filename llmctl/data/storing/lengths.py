"""Length statistics of a split: measured once and stored in the manifest, for verbs that must be fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from llmctl.data.spec import CHAT_ROLES, IN_LOSS
from llmctl.store.prepared import LengthStats, Prepared
from llmctl.types import Role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmctl.data.storing.tokens import TokenStore

AT_ONCE: Final = 1 << 16
"""Records whose lengths are in memory at once."""
NOTHING: Final = LengthStats.model_construct(
    records=0, tokens=0, loss_tokens=0, marks=0, longest_prompt=0, longest_target=0, longest=0
)

_TEMPLATE: Final = get_args(Role).index("template")
_TURNS: Final = tuple(get_args(Role).index(role) for role in CHAT_ROLES)
"""Indices of the segment roles that are turns of a conversation."""


def lengths_of(prepared: Prepared, split: str) -> LengthStats:
    """The length statistics of a non-empty split: from the manifest, or measured if an older version wrote it.

    Only measuring imports numpy; it raises `IntegrityError` if the token store is damaged.
    """
    known = prepared.manifest.lengths.get(split)
    if known is not None:
        return known
    from llmctl.data.storing.tokens import TokenStore

    return measure(TokenStore.open(prepared.tokens, split))


def histogram(store: TokenStore) -> list[tuple[int, int]]:
    """Records by their tokens of text, in columns of doubling width: (most tokens, records), empty ones in between too."""
    import numpy as np

    counts = np.zeros(64, np.int64)
    for first in range(0, len(store), AT_ONCE):
        sizes = np.diff(store.segments[store.records[first : first + AT_ONCE + 1]])
        columns = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
        counts += np.bincount(columns, minlength=len(counts))
    filled = np.flatnonzero(counts).tolist()
    return [(1 << column, int(counts[column])) for column in range(filled[0], filled[-1] + 1)] if filled else []


def measure(store: TokenStore) -> LengthStats:
    """Measure the lengths of all records of a split, some at a time."""
    found = NOTHING
    for first in range(0, len(store), AT_ONCE):
        records = store.records[first : first + AT_ONCE + 1]
        inside = slice(int(records[0]), int(records[-1]))
        segments = store.segments[inside.start : inside.stop + 1]
        frames = None if store.frames is None else store.frames[first : first + AT_ONCE]
        counts = records[1:] - records[:-1]
        found = added(found, lengths_in(segments[1:] - segments[:-1], store.roles[inside], counts, frames))
    return found.model_copy(update={"tokens": store.total_tokens})


def lengths_in(
    sizes: NDArray[np.int64],
    roles: NDArray[np.uint8],
    counts: NDArray[np.int64],
    frames: NDArray[np.int32] | None = None,
) -> LengthStats:
    """The statistics of R records with `counts` (R,) segments each, of (S,) tokens in (S,) roles. `frames`: (R,) frames of
    10 ms of the recordings."""
    import numpy as np

    ends = np.append(0, np.cumsum(counts))

    def by_record(values: NDArray[np.int64]) -> NDArray[np.int64]:
        """(S,) -> (R,) sums."""
        sums = np.append(0, np.cumsum(values))
        found: NDArray[np.int64] = np.diff(sums[ends])
        return found

    in_loss = (roles & IN_LOSS) != 0  # (S,)
    marks = np.where(np.isin(roles & ~np.uint8(IN_LOSS), _TURNS), 2, 1)  # (S,)
    rendered = by_record((roles & ~np.uint8(IN_LOSS)) == _TEMPLATE) > 0  # (R,) the template's marks are segments
    marks = np.where(np.repeat(rendered, counts), 0, marks)
    prompts, answers = by_record((sizes + marks) * ~in_loss), by_record((sizes + marks) * in_loss)  # (R,)
    return LengthStats(
        records=len(counts),
        tokens=int(sizes.sum()),
        loss_tokens=int(sizes[in_loss].sum()),
        marks=int(marks.sum()),
        longest_prompt=int(prompts.max(initial=0)),
        longest_target=int(answers.max(initial=0)),
        longest=int((prompts + answers).max(initial=0)),
        seconds=None if frames is None else round(float(frames.sum()) / 100, 2),
        longest_seconds=None if frames is None else float(frames.max(initial=0)) / 100,
    )


def added(one: LengthStats, other: LengthStats) -> LengthStats:
    """The statistics of the records of both."""
    found: dict[str, Any] = {}
    for name in LengthStats.model_fields:
        values = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        if values:
            found[name] = max(values) if name.startswith("longest") else sum(values)
    if "seconds" in found:
        found["seconds"] = round(found["seconds"], 2)
    return LengthStats(**found)
