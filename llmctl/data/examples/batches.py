"""Groups examples into batches and collates them into arrays.

A global batch is a pure function of (seed, epoch, step); each process takes its share of it. So resuming needs no saved
state, and the order of examples does not depend on the number of processes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.examples.layout import Layout, Sample
from llmctl.data.examples.orders import Permutation
from llmctl.data.spec import PADDED_TO
from llmctl.data.storing.tokens import TokenStore
from llmctl.types import IGNORED, Family

Arrays = dict[str, NDArray[Any]]


LARGE: Final = 1 << 20
"""Beyond this many examples, the order of an epoch is a keyed permutation instead of an array in memory."""


def block_lengths(count: int, size: int, last: int) -> NDArray[np.int64]:
    """(count,) the length of each block: `size`, and `last` of the last one. Of very many, the last gets `size`
    too, so that they take no memory; lengths only sort examples."""
    if count > LARGE:
        return np.broadcast_to(np.int64(size), count)
    found = np.full(count, size, np.int64)
    found[count - 1 :] = last
    return found


@dataclass(frozen=True)
class Blocks:
    """Language modelling: the token stream of a split cut into blocks of `size` tokens.

    Example i has the tokens [i·size, i·size + size], both ends included: `size` inputs and their next tokens.
    """

    store: TokenStore
    size: int

    @property
    def tokens_each(self) -> int:
        """Tokens of the stream that each example consumes."""
        return self.size

    def __len__(self) -> int:
        return max(0, -(-(len(self.store.values) - 1) // self.size))

    def lengths(self) -> NDArray[np.int64]:
        return block_lengths(len(self), self.size, (len(self.store.values) - 1) - (len(self) - 1) * self.size)

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> Arrays:
        """`input_ids` (B, T) and `labels` (B, T), the next tokens: already shifted, all in the loss."""
        rows = [self.store.values[index * self.size : (index + 1) * self.size + 1] for index in indices]
        longest = max(len(row) for row in rows) - 1
        inputs = np.zeros((len(rows), longest), np.int64)
        labels = np.full((len(rows), longest), IGNORED, np.int64)
        for number, row in enumerate(rows):
            inputs[number, : len(row) - 1] = row[:-1]
            # Padding is neither in the loss nor attended to; a pad token there would make transformers warn.
            inputs[number, len(row) - 1 :] = row[-1]
            labels[number, : len(row) - 1] = row[1:]
        return {"input_ids": inputs, "labels": labels}


@dataclass(frozen=True)
class Records:
    """All other tasks: one record per example, padded to the longest of its batch."""

    store: TokenStore
    layout: Layout
    pad: int

    @functools.cached_property
    def near_limit(self) -> NDArray[np.int64]:
        """Indices in the store of the records that may exceed the context."""
        if not len(self.store):
            return np.zeros(0, np.int64)
        return self.layout.near_limit(self._lengths(), np.diff(self.store.records), self.store.record(0))

    @property
    def why_left_out(self) -> str:
        return f"their answers do not fit {self.layout.context} tokens; --set long_answers=cut keeps their beginnings"

    @functools.cached_property
    def left_out(self) -> frozenset[int]:
        """Indices in the store of the records that are no examples, because their answer does not fit the context."""
        near = map(int, self.near_limit)
        return frozenset(index for index in near if not self.layout.usable(self.store.record(index)))

    @functools.cached_property
    def kept(self) -> NDArray[np.int64] | None:
        """(examples,) the index in the store of each example; None if every record is one."""
        if not self.left_out:
            return None
        return np.setdiff1d(np.arange(len(self.store)), np.array(sorted(self.left_out)))

    def places(self, indices: Sequence[int]) -> Sequence[int]:
        """The index in the store of each of these examples."""
        return indices if self.kept is None else [int(self.kept[index]) for index in indices]

    def __len__(self) -> int:
        return len(self.store) - len(self.left_out)

    def lengths(self) -> NDArray[np.int64]:
        return self._lengths() if self.kept is None else self._lengths()[self.kept]

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> Arrays:
        places = self.places(indices)
        samples = [self.layout.sample(self.store.record(index), self.store.label(index)) for index in places]
        return collate(samples, self.layout.family, self.pad, context=self.layout.context)

    def _lengths(self) -> NDArray[np.int64]:
        tokens = self.store.segments[self.store.records]
        return np.diff(tokens).astype(np.int64)


def collate(samples: Sequence[Sample], family: Family, pad: int, *, context: int | None = None) -> Arrays:
    """Collate samples into right-padded arrays. A decoder's labels are already shifted: position t predicts labels[t].

    The width is rounded up to a multiple of `PADDED_TO`, but not beyond the context.
    """

    def size(lengths: Sequence[int]) -> int:
        longest = max(lengths)
        return max(longest, min(-(-longest // PADDED_TO) * PADDED_TO, context or sys.maxsize))

    arrays: Arrays = {}
    inputs = [sample.input_ids for sample in samples]
    if family == "decoder":
        width = size([len(each) - 1 for each in inputs])
        arrays["input_ids"] = padded_rows([each[:-1] for each in inputs], pad, width)
        arrays["labels"] = padded_rows(
            [np.where(sample.loss_mask[1:], sample.input_ids[1:], IGNORED) for sample in samples], IGNORED, width
        )
        arrays["attention_mask"] = _mask([len(each) - 1 for each in inputs], width)
        return arrays
    width = size([len(each) for each in inputs])
    arrays["input_ids"] = padded_rows(inputs, pad, width)
    arrays["attention_mask"] = _mask([len(each) for each in inputs], width)
    if family == "encoder-decoder":
        targets = [sample.target_ids for sample in samples]
        arrays["labels"] = padded_rows(targets, IGNORED, size([len(each) for each in targets]))
    else:
        arrays["labels"] = np.array([sample.label for sample in samples], np.int64)
    return arrays


def padded_rows(rows: Sequence[NDArray[np.int64]], filler: int, width: int) -> NDArray[np.int64]:
    """(B, width): the rows, with `filler` behind each."""
    out = np.full((len(rows), width), filler, np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def _mask(lengths: Sequence[int], width: int) -> NDArray[np.int64]:
    return (np.arange(width)[None, :] < np.asarray(lengths)[:, None]).astype(np.int64)


WINDOW: Final = 50
"""Number of batches whose examples are sorted by length together, to reduce padding."""


def epoch_batches(seed: int, epoch: int, lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The global batches of an epoch, determined by (seed, epoch): every example once; one batch may be smaller.

    Examples are shuffled, sorted by length within windows of `WINDOW` batches and cut into batches, which are shuffled.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch, 0x11C]))
    shuffled = rng.permutation(len(lengths))
    if len(lengths) and lengths.min() == lengths.max():
        return [shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size)]
    batches: list[NDArray[np.int64]] = []
    window = WINDOW * batch_size
    for start in range(0, len(shuffled), window):
        part = shuffled[start : start + window]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def keyed_batch(seed: int, epoch: int, number: int, lengths: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """One batch of an epoch by the rule of `epoch_batches`, with keyed permutations of the examples and of the batches."""
    count = len(lengths)
    batch = int(Permutation(steps_per_epoch(count, batch_size), [seed, epoch, 0x11C, 1])(np.array([number]))[0])
    examples = Permutation(count, [seed, epoch, 0x11C, 0])
    first = batch * batch_size
    if lengths.strides == (0,):
        return examples(np.arange(first, min(count, first + batch_size)))
    begin = batch // WINDOW * WINDOW * batch_size
    window = examples(np.arange(begin, min(count, begin + WINDOW * batch_size)))
    ordered: NDArray[np.int64] = window[np.argsort(-lengths[window], kind="stable")]
    return ordered[first - begin : first - begin + batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps in an epoch."""
    return -(-count // batch_size)


class Batches:
    """Maps an optimizer step, counted from 0, to its global batch; random access, with no state to save.

    `keyed`: the order of an epoch is a keyed permutation, of which a batch is computed when it is needed. Else it is an
    array, as always in runs that were started by older versions.
    """

    def __init__(self, lengths: NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        self.keyed = len(lengths) > LARGE
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.per_epoch = steps_per_epoch(len(lengths), batch_size)
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices of the examples of a step, for all processes together."""
        epoch, within = divmod(step, self.per_epoch)
        if self.keyed:
            return keyed_batch(self.seed, epoch, within, self.lengths, self.batch_size)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, epoch_batches(self.seed, epoch, self.lengths, self.batch_size)
        return self._batches[within]
