"""How often to save: what loses the least time on the whole."""

from __future__ import annotations

import math

import pytest

from relaydet.runtime.detect import Runtime
from relaydet.runtime.limits import LIMITS
from relaydet.training.interval import LONGEST_SECONDS, SHORTEST_SECONDS, choose_interval


def runtime(name: str) -> Runtime:
    return Runtime(name, "by the test")


@pytest.mark.parametrize(
    ("pack", "carry", "where", "seconds"),
    [
        pytest.param(1.0, 2.0, "colab", math.sqrt(2 * 1 * 1.5 * 3600), id="Young's formula"),
        pytest.param(
            4.0, 2.0, "colab", 2 * math.sqrt(2 * 1 * 1.5 * 3600), id="four times the cost"
        ),
        pytest.param(1.0, 2.0, "kaggle", math.sqrt(2 * 1 * 6 * 3600), id="a longer life"),
        pytest.param(0.001, 0.0, "colab", SHORTEST_SECONDS, id="a save costs nothing"),
        pytest.param(0.0, 0.0, "local", SHORTEST_SECONDS, id="nothing at all"),
        pytest.param(600.0, 0.0, "local", LONGEST_SECONDS, id="a save costs ten minutes"),
        pytest.param(1.0, 200.0, "colab", 400.0, id="a slow store"),
        pytest.param(1.0, 7200.0, "colab", LONGEST_SECONDS, id="a store of two hours"),
    ],
)
def test_what_loses_the_least_time(pack, carry, where, seconds):
    assert choose_interval(pack, carry, runtime(where))[0] == pytest.approx(seconds)


def test_no_other_interval_loses_less():
    """Time lost: a save each interval, and half an interval at each interruption."""
    cost, life = 2.0, 3600 * LIMITS["kaggle"].interruption_hours
    best, _ = choose_interval(cost, 0.0, runtime("kaggle"))

    def lost(interval: float) -> float:
        return cost / interval + interval / 2 / life

    assert all(lost(best) <= lost(best * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))


@pytest.mark.parametrize("name", LIMITS)
def test_the_reason_tells_the_costs_and_how_long_a_session_may_live(name):
    _, reason = choose_interval(1.26, 12.0, runtime(name))
    assert "1.3 s" in reason
    assert "12.0 s" in reason
    assert f"on {name} it may live {LIMITS[name].interruption_hours:g} h" in reason
