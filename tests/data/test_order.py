"""The order of samples: universal rules over sizes, seeds and places to resume at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.data.order import BatchPlan, aspect_groups, epoch_batches, steps_per_epoch

GROUPS = st.lists(st.integers(0, 1), min_size=1, max_size=50).map(np.array)
BATCH_SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**40)


@given(SEEDS, st.integers(0, 99), GROUPS, BATCH_SIZES)
def test_an_epoch_holds_every_image_once_in_full_batches(seed, epoch, groups, batch_size):
    batches = epoch_batches(seed, epoch, groups, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(groups)))
    assert len(batches) == steps_per_epoch(len(groups), batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@given(SEEDS, GROUPS, BATCH_SIZES)
def test_only_the_rest_of_the_groups_is_mixed(seed, groups, batch_size):
    batches = epoch_batches(seed, 0, groups, batch_size)
    pure = sum(len(set(groups[batch].tolist())) == 1 for batch in batches)
    assert pure >= sum(count // batch_size for count in np.bincount(groups))


@given(st.data(), SEEDS, GROUPS, BATCH_SIZES)
def test_a_plan_from_any_step_is_the_tail_of_the_whole_plan(data, seed, groups, batch_size):
    last = 3 * steps_per_epoch(len(groups), batch_size) - 1
    first = data.draw(st.integers(0, last), label="first_step")
    whole = list(BatchPlan(seed, groups, batch_size, 0, last))
    tail = BatchPlan(seed, groups, batch_size, first, last)
    assert list(tail) == whole[first:]
    assert len(tail) == len(whole) - first
    assert list(tail) == list(tail), "iterating does not use it up"


@given(SEEDS, GROUPS, BATCH_SIZES, st.integers(1, 9), st.integers(0, 20))
def test_ranks_share_the_very_batches_of_one_process(seed, groups, batch_size, ranks, first):
    last = first + 2 * steps_per_epoch(len(groups), batch_size)
    whole = list(BatchPlan(seed, groups, batch_size, first, last))
    shares = [
        BatchPlan(seed, groups, batch_size, first, last, rank, ranks) for rank in range(ranks)
    ]
    places = [plan.shares() for plan in shares]
    for batch, *rest in zip(whole, *shares, *places, strict=True):
        keys, of = rest[:ranks], rest[ranks:]
        mine = [part[: share.count] for part, share in zip(keys, of, strict=True)]
        assert [key for part in mine for key in part] == batch, "in the same order"
        assert max(map(len, mine)) - min(map(len, mine)) <= 1, "shared evenly"
        assert [share.first for share in of] == [0, *np.cumsum(list(map(len, mine)))[:-1]]
        assert {(share.batch, share.most) for share in of} == {(len(batch), len(mine[0]))}
        assert all(part for part in keys), "a rank without a share has an image that counts not"


def test_keys_tell_the_epoch():
    plan = BatchPlan(0, np.zeros(5, int), 2, 0, 6)
    assert [{epoch for epoch, _ in batch} for batch in plan] == [{0}] * 3 + [{1}] * 3


@pytest.mark.parametrize(
    ("epoch", "batches"),
    [(0, [[5, 6], [3, 7], [2, 0], [4, 1]]), (1, [[0, 4], [1, 7], [6, 5], [2, 3]])],
)
def test_the_order_never_changes(epoch, batches):
    """A run that was started with another version goes on with the same batches."""
    groups = np.array([0, 1, 0, 0, 1, 0, 0, 1])
    assert [batch.tolist() for batch in epoch_batches(7, epoch, groups, 2)] == batches


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)], ids=["seed", "epoch"])
def test_seed_and_epoch_change_the_order(seed, epoch):
    groups = np.zeros(40, int)
    first, other = epoch_batches(0, 0, groups, 4), epoch_batches(seed, epoch, groups, 4)
    assert np.concatenate(first).tolist() != np.concatenate(other).tolist()


@pytest.mark.parametrize(
    ("images", "batch_size", "steps"),
    [(8, 8, 1), (9, 8, 2), (7, 8, 1), (16, 8, 2), (1, 1, 1), (0, 8, 0)],
)
def test_steps_per_epoch(images, batch_size, steps):
    assert steps_per_epoch(images, batch_size) == steps
    assert len(epoch_batches(0, 0, np.zeros(images, int), batch_size)) == steps


def test_groups_are_landscape_and_portrait():
    groups = aspect_groups(np.array([20, 10, 10]), np.array([10, 20, 10]))
    assert groups.tolist() == [0, 1, 0], "a square goes with the landscapes"
