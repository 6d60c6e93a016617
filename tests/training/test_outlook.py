"""What is left of a run: numbers, and the sentence that tells them."""

from __future__ import annotations

import pytest

from relaydet.training.outlook import Outlook, duration, look_ahead


@pytest.mark.parametrize(
    ("first", "step", "total", "seconds", "seconds_left", "sessions_left"),
    [
        pytest.param(0, 30, 120, 60.0, 180.0, 3, id="a quarter is done"),
        pytest.param(60, 90, 120, 60.0, 60.0, 1, id="one more like this"),
        pytest.param(0, 100, 120, 50.0, 10.0, 1, id="a short one more"),
        pytest.param(0, 50, 101, 50.0, 51.0, 2, id="a step more than one"),
        pytest.param(90, 120, 120, 60.0, 0.0, 0, id="done"),
        pytest.param(40, 40, 120, 5.0, None, None, id="no step yet"),
        pytest.param(0, 0, 120, 0.0, None, None, id="a new run"),
        pytest.param(120, 120, 120, 5.0, 0.0, 0, id="done before"),
    ],
)
def test_what_is_left(first, step, total, seconds, seconds_left, sessions_left):
    outlook = look_ahead(first, step, total, seconds)
    assert outlook == Outlook(step, total, seconds_left, sessions_left)


@pytest.mark.parametrize(
    ("outlook", "sentence"),
    [
        pytest.param(
            Outlook(30, 120, 180.0, 3),
            "step 30 of 120 (25%), 3 min to go: 3 more sessions as long as this one",
            id="several sessions",
        ),
        pytest.param(
            Outlook(90, 120, 60.0, 1),
            "step 90 of 120 (75%), 60 s to go: 1 more session as long as this one",
            id="one session",
        ),
        pytest.param(Outlook(40, 120, None, None), "step 40 of 120 (33%)", id="no speed yet"),
        pytest.param(Outlook(120, 120, 0.0, 0), "step 120 of 120 (100%)", id="done"),
    ],
)
def test_it_is_said_in_a_sentence(outlook, sentence):
    assert str(outlook) == sentence


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"),
        (89.0, "89 s"),
        (90.0, "2 min"),
        (600.0, "10 min"),
        (3569.0, "59 min"),
        (3571.0, "1 h 00 min"),
        (11_100.0, "3 h 05 min"),
        (360_000.0, "100 h 00 min"),
    ],
)
def test_a_time_is_said_as_people_say_it(seconds, said):
    assert duration(seconds) == said
