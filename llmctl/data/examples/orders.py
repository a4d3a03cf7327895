"""A keyed permutation of the numbers below n, computed for each number, so that an order needs no array.

A Feistel network over the smallest even number of bits that holds n is a permutation of that range whatever its round
function is (Luby and Rackoff 1988); a number that leaves the range [0, n) is permuted again until it is back, which keeps
it a permutation of [0, n) ("cycle walking", Black and Rogaway 2002). The range is less than 4 n, so that takes few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDS: Final = 8


class Permutation:
    """A permutation of the numbers from 0 to `count` - 1, determined by `key`."""

    def __init__(self, count: int, key: Sequence[int]) -> None:
        self.count = count
        self._half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers at these places of the order."""
        found = self._permuted(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.count)):
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            # SplitMix64 (Steele, Lea and Flood 2014) as round function.
            mixed = right + key
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & self._mask)
        joined: NDArray[np.uint64] = (left << self._half) | right
        return joined
