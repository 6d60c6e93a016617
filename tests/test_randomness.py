"""Keyed random numbers: the values that running trainings rely on, and that they look random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.randomness import keyed_bits, keyed_permutation, keyed_seed, keyed_uniform

INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("key", "bits"),
    [
        ((), 0x9E3779B97F4A7C15),
        ((0,), 0xB382A305F4414F5E),
        ((1,), 0xF18D6CE93D6CF1EE),
        ((-1,), 0xBDA5668A01D7049C),
        ((1, 2, 3), 0xA2C7AE98F4AD087A),
        ((3, 2, 1), 0x0A7EE9814BDDA202),
    ],
)
def test_the_numbers_never_change(key, bits):
    """A run that was started with another version goes on with the same numbers."""
    assert int(keyed_bits(*key)) == bits


def test_what_is_made_of_the_bits_never_changes():
    assert float(keyed_uniform(0, 1)) == float.fromhex("0x1.48e4ff7915060p-6")
    assert keyed_seed(0, 1, 2) == 2090857798032526087
    assert keyed_permutation(8, 1, 2).tolist() == [2, 4, 1, 5, 6, 3, 7, 0]


@given(st.lists(INT64, min_size=1, max_size=4), st.lists(INT64, min_size=1, max_size=5))
def test_an_array_gives_what_its_elements_give(key, last):
    together = keyed_bits(*key, np.array(last))
    assert together.tolist() == [int(keyed_bits(*key, part)) for part in last]


@given(INT64, INT64)
def test_the_order_of_a_key_matters(a, b):
    assert (int(keyed_bits(a, b)) == int(keyed_bits(b, a))) == (a == b)
    assert int(keyed_bits(a)) != int(keyed_bits(a, 0))


@given(INT64, INT64)
def test_seeds_fit_into_63_bits(a, b):
    assert 0 <= keyed_seed(a, b) < 2**63


@pytest.mark.parametrize("key", [(0,), (-5, 3), (2**40, 7, 7)], ids=str)
def test_uniform_numbers_are_spread_evenly(key):
    values = keyed_uniform(*key, np.arange(100_000))
    assert values.min() >= 0
    assert values.max() < 1
    share, _ = np.histogram(values, bins=20, range=(0, 1))
    assert np.abs(share / len(values) - 0.05).max() < 0.004  # 5.8 standard deviations
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


@given(st.integers(0, 300), INT64, INT64)
def test_a_permutation_holds_everything_once(length, seed, epoch):
    assert sorted(keyed_permutation(length, seed, epoch).tolist()) == list(range(length))


def test_every_place_of_a_permutation_gets_everything():
    first = [int(keyed_permutation(5, seed)[0]) for seed in range(1000)]
    assert np.bincount(first, minlength=5).min() > 140  # expected 200, standard deviation 13
