"""Orders of an epoch by keyed permutations: every example once, another order for each key, without an array."""

from __future__ import annotations

import numpy as np
import pytest

from llmctl.data.examples import batches
from llmctl.data.examples.batches import Batches, block_lengths, keyed_batch
from llmctl.data.examples.orders import Permutation


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097, 70_001])
def test_every_number_occurs_once(count: int) -> None:
    found = Permutation(count, [1, 2])(np.arange(count))
    assert sorted(found.tolist()) == list(range(count))


def test_keys_give_orders_that_look_independent() -> None:
    count = 20_000
    orders = [Permutation(count, [seed, epoch])(np.arange(count)) for seed in (0, 1) for epoch in (0, 1)]
    for number, one in enumerate(orders):
        assert abs(np.corrcoef(np.arange(count), one)[0, 1]) < 0.03
        assert (np.diff(one) == 1).sum() < 10
        for other in orders[:number]:
            assert (one == other).sum() < 10
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    # The first of an order is anywhere.
    firsts = np.array([Permutation(count, [key])(np.array([0]))[0] for key in range(400)])
    assert abs(firsts.mean() / count - 0.5) < 0.06


def test_places_are_computed_without_the_others() -> None:
    order = Permutation(3 * 10**12, [7])
    places = np.array([0, 1, 2 * 10**12])
    found = order(places)
    assert len(set(found.tolist())) == 3
    assert (found < 3 * 10**12).all()
    assert (order(places[::-1]) == found[::-1]).all()


@pytest.mark.parametrize("kind", ["equal", "varied"])
def test_an_epoch_has_every_example_once_and_little_padding(kind: str) -> None:
    count, size = 10_007, 16
    rng = np.random.default_rng(0)
    lengths = np.broadcast_to(np.int64(8), count) if kind == "equal" else rng.integers(1, 500, count)
    steps = -(-count // size)
    epochs = [[keyed_batch(3, epoch, step, lengths, size) for step in range(steps)] for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(count))
        assert sum(len(batch) != size for batch in epoch) == 1
    assert (epochs[0][0] != epochs[1][0]).any()
    if kind == "varied":
        padded = np.mean([1 - lengths[batch].mean() / lengths[batch].max() for batch in epochs[0]])
        assert padded < 0.1


def test_many_blocks_take_no_memory_and_random_access(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = block_lengths(10**12, 512, 3)
    found = Batches(lengths, batch_size=256, seed=0)
    assert lengths.strides == (0,)
    assert found.keyed
    step = found.per_epoch + 10**9
    assert (found(step) == found(step)).all()
    assert len(set(found(step).tolist())) == 256
    assert not Batches(block_lengths(1000, 512, 3), batch_size=256, seed=0).keyed
    monkeypatch.setattr(batches, "LARGE", 100)
    assert Batches(block_lengths(1000, 512, 3), batch_size=256, seed=0).keyed
