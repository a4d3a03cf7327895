"""Key/value memory of rows that come and go.

The rows of a batch end in the same column, whatever their lengths, so that a model sees a batch that is padded before its
prompts, as from transformers' `generate`:

        base            end
    row 0  . . . . k k k |          . padding, not attended to
    row 1  k k k k k k k |          k keys and values of a token
    row 2  . . k k k k k |

A new token is written into the column `end` of every row. A row that leaves is replaced by the last one; a new one is
copied in so that it ends where the others do. Columns before the longest row are not read, so a pass costs what the
longest row costs, and memory is reused.

Letters: B rows, N heads, T columns, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_SPARE: Final = 64
"""Columns that are allocated at least in advance."""


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """The keys and values of a layer, (B, N, T, D), in a larger buffer."""

    is_sliding = False
    is_compileable = False

    def __init__(self, place: Slots, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.place = place
        self.all_keys, self.all_values = place.empty(keys), place.empty(values)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the buffers exist from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B, N, 1, D) of the newest token, and return those of all tokens (B, N, T, D)."""
        place = self.place
        self.all_keys[: place.rows, :, place.end] = key_states[:, :, 0]
        self.all_values[: place.rows, :, place.end] = value_states[:, :, 0]
        columns = slice(place.base, place.end + 1)
        return self.all_keys[: place.rows, :, columns], self.all_values[: place.rows, :, columns]

    def show(self) -> None:
        """Give what is stored as `keys` and `values`, which cross-attention reads."""
        columns = slice(self.place.base, self.place.end)
        self.keys, self.values = (each[: self.place.rows, :, columns] for each in (self.all_keys, self.all_values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.place.end - self.place.base

    def get_max_length(self) -> int:
        return -1


class Slots:
    """Where the rows of a batch lie, and the layers that hold them."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        """The first column of each row."""
        self.end = 0
        """The column after the last one of all rows."""
        self.cache: Any = None
        """The memory as models take it; None before the first row."""
        self._size = (0, 0)
        """Rows and columns of the buffers."""

    @property
    def rows(self) -> int:
        return len(self.starts)

    @property
    def base(self) -> int:
        """The first column of the longest row."""
        return min(self.starts, default=self.end)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [self.end - start for start in self.starts]

    def mask(self, device: str, *, new: int) -> Tensor:
        """(B, T + new): 1 on tokens, also the `new` ones that are read next, 0 on padding."""
        starts = torch.tensor(self.starts, device=device)
        return (torch.arange(self.base, self.end + new, device=device) >= starts[:, None]).long()

    def empty(self, like: Tensor) -> Tensor:
        """A buffer for keys or values like these (B, N, T, D). Zeros: padding is read, with weight 0."""
        rows, columns = self._size
        return like.new_zeros(rows, like.shape[1], columns, like.shape[3])

    def reserve(self) -> None:
        """Make room for one more column."""
        if self.end == self._size[1]:
            self._move(self.rows, self.end - self.base)

    def append(self, part: Cache, lengths: Sequence[int], *, padded_after: bool = False) -> None:
        """Add rows of these lengths from `part`, in which they are padded before or after."""
        first, longest = self.rows, max(lengths)
        if not first:
            self.end = 0
        if self.end < longest or first + len(lengths) > self._size[0]:
            self._move(first + len(lengths), max(self.end - self.base, longest))
        self.starts += [self.end - length for length in lengths]
        if self.cache is None:
            self.cache = Cache(layers=[SlotLayer(self, layer.keys, layer.values) for layer in part.layers])
        for layer, new in zip(self.cache.layers, part.layers, strict=True):
            for row, length in enumerate(lengths):
                place = (first + row, slice(None), slice(self.end - length, self.end))
                span = slice(0, length) if padded_after else slice(new.keys.shape[2] - length, None)
                layer.all_keys[place] = new.keys[row, :, span]
                layer.all_values[place] = new.values[row, :, span]

    def keep(self, order: Sequence[int]) -> None:
        """Row i is from now on what row `order[i] >= i` was; the others leave."""
        columns = slice(self.base, self.end)
        for layer in self.cache.layers if self.cache is not None else ():
            for new, old in enumerate(order):
                if new != old:
                    for each in (layer.all_keys, layer.all_values):
                        each[new, :, columns] = each[old, :, columns]
        self.starts = [self.starts[old] for old in order]

    def _move(self, rows: int, end: int) -> None:
        """Move all rows so that they end in the column `end`, in buffers of at least so many rows and some columns more."""
        before, after = slice(self.base, self.end), slice(end - (self.end - self.base), end)
        old_size = self._size
        self._size = (max(rows, old_size[0]), max(end + max(_SPARE, end // 2), old_size[1]))
        for layer in self.cache.layers if self.cache is not None else ():
            for name in ("all_keys", "all_values"):
                old: Tensor = getattr(layer, name)
                kept = old[: self.rows, :, before]
                new = self.empty(old) if self._size != old_size else old
                new[: self.rows, :, after] = kept.clone() if new is old else kept
                setattr(layer, name, new)
        self.starts = [start + end - self.end for start in self.starts]
        self.end = end

    def show(self) -> None:
        """Give what is stored as `keys` and `values` of each layer, which cross-attention reads."""
        for layer in self.cache.layers:
            layer.show()
