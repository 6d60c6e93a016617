"""The learning rate at the steps where it matters."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.training.schedule import Schedule, learning_rate

STEPS = Schedule("steps", peak=2.0, total_steps=120, warmup_steps=10)
COSINE = Schedule("cosine", peak=2.0, total_steps=100, warmup_steps=0)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        pytest.param(STEPS, 0, 0.002, id="warm-up starts at a thousandth"),
        pytest.param(STEPS, 5, 1.001, id="half way up"),
        pytest.param(STEPS, 10, 2.0, id="peak"),
        pytest.param(STEPS, 79, 2.0, id="before the first milestone"),
        pytest.param(STEPS, 80, 0.2, id="first milestone, 8 of 12 epochs"),
        pytest.param(STEPS, 109, 0.2, id="before the second milestone"),
        pytest.param(STEPS, 110, 0.02, id="second milestone, 11 of 12 epochs"),
        pytest.param(STEPS, 119, 0.02, id="last step"),
        pytest.param(COSINE, 0, 2.0, id="no warm-up"),
        pytest.param(COSINE, 25, 1 + 0.5**0.5, id="cosine, a quarter"),
        pytest.param(COSINE, 50, 1.0, id="cosine, half"),
        pytest.param(COSINE, 100, 0.0, id="cosine ends at zero"),
    ],
)
def test_learning_rate(schedule, step, expected):
    assert learning_rate(schedule, step) == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from(["steps", "cosine"]), st.integers(1, 300), st.integers(0, 300))
def test_the_rate_is_positive_and_falls_after_the_warm_up(kind, total, warmup):
    schedule = Schedule(kind, 1.0, total, warmup)
    rates = [learning_rate(schedule, step) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    after = rates[warmup:]
    assert all(later <= earlier for earlier, later in pairwise(after))
