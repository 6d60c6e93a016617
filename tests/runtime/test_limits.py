"""When a session has to be over: MAX_MINUTES, else the runtime's limit, else never."""

from __future__ import annotations

import re
import time

import pytest

from relaydet.errors import RelayError
from relaydet.runtime import limits
from relaydet.runtime.detect import Runtime
from relaydet.runtime.limits import LIMITS, RUNTIME_MARGIN_SECONDS, find_deadline

HOUR = 3600.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)


def runtime(name: str) -> Runtime:
    return Runtime(name, "by the test")


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("minutes", [0.0, 2.5, 6000.0])
def test_max_minutes_goes_first(name, minutes):
    deadline = find_deadline(runtime(name), minutes, uptime=11 * HOUR)
    assert deadline.at == 1000 + 60 * minutes
    assert deadline.reason == f"MAX_MINUTES={minutes:g}"
    assert deadline.margin == 0, "the user has thought of that"


@pytest.mark.parametrize("name", ["colab", "kaggle"])
@pytest.mark.parametrize(
    ("uptime", "left"),
    [
        pytest.param(0.0, 12 * HOUR, id="just started"),
        pytest.param(90.0, 12 * HOUR - 90, id="after a minute and a half"),
        pytest.param(11.99 * HOUR, 0.01 * HOUR, id="nearly over"),
    ],
)
def test_a_runtime_that_ends_sessions_is_counted_from_the_machines_start(name, uptime, left):
    deadline = find_deadline(runtime(name), None, uptime)
    assert deadline.at == pytest.approx(1000 + left)
    assert deadline.reason == f"{name}'s limit of 12 h, counted from the machine's start"
    assert deadline.margin == RUNTIME_MARGIN_SECONDS


@pytest.mark.parametrize("uptime", [12 * HOUR, 1000 * HOUR])
def test_a_machine_that_is_older_than_the_limit_tells_nothing(uptime):
    assert find_deadline(runtime("colab"), None, uptime) is None


@pytest.mark.parametrize("name", ["local", "gcp_notebook", "vertex_job", "colab_enterprise", "ci"])
def test_a_runtime_without_a_limit_has_no_deadline(name):
    assert find_deadline(runtime(name), None, uptime=60.0) is None


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param("3600.25 7000.00\n", 1000 + 11 * HOUR - 0.25, id="an hour"),
        pytest.param("", None, id="empty"),
        pytest.param("up 3 days", None, id="words"),
        pytest.param(None, None, id="no such file"),
    ],
)
def test_the_kernel_is_asked_how_long_it_has_been_up(tmp_path, monkeypatch, text, at):
    file = tmp_path / "uptime"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(limits, "UPTIME", file)
    deadline = find_deadline(runtime("kaggle"), None)
    assert (deadline and deadline.at) == at


def test_every_limit_says_where_it_comes_from():
    for name, limit in LIMITS.items():
        assert limit.source, name
        assert re.fullmatch(r"20\d\d-\d\d", limit.date), name
        assert limit.idle_hours is None or limit.interruption_hours <= limit.idle_hours, name
        assert 0 < limit.interruption_hours <= (limit.session_hours or 24), name


@pytest.mark.parametrize(
    ("given", "at"),
    [
        pytest.param("24", 1000 + 23 * HOUR, id="Colab Pro+"),
        pytest.param("1.5", 1000 + 0.5 * HOUR, id="shorter"),
        pytest.param("0", None, id="no limit"),
        pytest.param("", 1000 + 11 * HOUR, id="empty: the table"),
    ],
)
def test_the_user_knows_better_than_the_table(given, at):
    environment = {limits.SESSION_VARIABLE: given}
    deadline = find_deadline(runtime("colab"), None, HOUR, environment)
    assert (deadline and deadline.at) == at
    if given and at:
        assert deadline.reason.startswith(f"RELAYDET_SESSION_HOURS of {float(given):g} h")


@pytest.mark.parametrize("given", ["long", "-1", "nan", "inf"])
def test_no_number_of_hours(given):
    with pytest.raises(RelayError, match=r"RELAYDET_SESSION_HOURS '.*': is no number of hours"):
        find_deadline(runtime("local"), None, 60.0, {limits.SESSION_VARIABLE: given})
