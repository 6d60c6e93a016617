"""When to stop: deadlines and signals become a request, and the handlers are put back."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from relaydet.errors import RelayError, StopError
from relaydet.runtime import stop as stopping
from relaydet.runtime.limits import Deadline
from relaydet.runtime.stop import StopRequest, stop_on_signals, unless_stopped

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def clock(monkeypatch):
    """The time, to be moved on by the test."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize(
    ("margin", "reserve", "last", "kept"),
    [
        pytest.param(0.0, 0.0, 119.9, "0 s", id="nothing to save"),
        pytest.param(0.0, 30.0, 89.9, "30 s", id="half a minute to save in"),
        pytest.param(20.0, 30.0, 69.9, "50 s", id="and a margin"),
        pytest.param(20.0, 0.0, 99.9, "20 s", id="a margin alone"),
    ],
)
def test_it_stops_early_enough_to_save(clock, margin, reserve, last, kept):
    """The deadline is in two minutes; there is still time at the last instant before."""
    stop = StopRequest(Deadline(clock[0] + 120, "MAX_MINUTES=2", margin))
    stop.reserve = reserve
    assert not stop
    clock[0] += last
    assert not stop
    assert stop.seconds_left() == pytest.approx(0.1)
    assert stop.reason is None
    clock[0] += 0.1
    assert stop
    assert stop.reason == f"MAX_MINUTES=2 is over, but for {kept} to save in"


def test_the_reserve_may_grow_while_training_goes_on(clock):
    stop = StopRequest(Deadline(clock[0] + 120, "MAX_MINUTES=2"))
    clock[0] += 100
    assert not stop
    stop.reserve = 20.0
    assert stop


def test_a_stop_stays_one(clock):
    stop = StopRequest(Deadline(clock[0] + 120, "MAX_MINUTES=2"))
    stop.reserve = 200.0
    assert stop
    stop.reserve = 0.0
    assert stop


@pytest.mark.parametrize("minutes", [0.0, -1.0])
def test_no_time_at_all(clock, minutes):
    assert StopRequest(Deadline(clock[0] + 60 * minutes, "MAX_MINUTES"))


def test_without_a_deadline_it_goes_on_for_ever(clock):
    stop = StopRequest()
    stop.reserve = 1e9
    clock[0] += 1e12
    assert not stop
    assert stop.seconds_left() == float("inf")


def test_the_first_reason_stays(clock):
    stop = StopRequest(Deadline(clock[0], "MAX_MINUTES=0"))
    stop.ask("the disk is full")
    stop.ask("later")
    assert stop
    assert stop.reason == "the disk is full"


@pytest.mark.parametrize("number", HANDLED, ids=lambda number: number.name)
def test_a_signal_becomes_a_request(number):
    before = [signal.getsignal(n) for n in HANDLED]
    stop = StopRequest()
    with stop_on_signals(stop):
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.reason == f"stopped by {number.name}"
    assert [signal.getsignal(n) for n in HANDLED] == before


def test_a_second_ctrl_c_interrupts_and_the_handlers_are_put_back():
    before = [signal.getsignal(n) for n in HANDLED]

    def press_twice():
        with stop_on_signals(StopRequest()):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert [signal.getsignal(n) for n in HANDLED] == before


def test_a_second_sigterm_changes_nothing():
    stop = StopRequest()
    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.reason == "stopped by SIGTERM"


def test_outside_the_main_thread_nothing_is_caught():
    handlers = []

    def work():
        with stop_on_signals(StopRequest()):
            handlers.extend(signal.getsignal(n) for n in HANDLED)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(n) for n in HANDLED]


def test_sighup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop_on_signals(stop):
            signal.raise_signal(signal.SIGHUP)
        assert stop.reason is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def short_waits(monkeypatch):
    for name, seconds in {
        "LOOK_SECONDS": 0.02, "OBEY_SECONDS": 0.1, "SAY_SECONDS": 0.1, "GIVE_UP_SECONDS": 0.5,
    }.items():  # fmt: skip
        monkeypatch.setattr(stopping, name, seconds)


def hang() -> None:
    threading.Event().wait()


def never() -> None:
    raise FileNotFoundError("model.pt")


@pytest.mark.parametrize("asked", [False, True])
def test_work_that_is_done_at_once_is_not_ended_by_a_stop(asked):
    stop, said = StopRequest(), []
    if asked:
        stop.ask("stopped by SIGTERM")
    assert unless_stopped(lambda: [1, 2], stop, "numbers", said.append) == [1, 2]
    with pytest.raises(FileNotFoundError, match=r"model\.pt"):
        unless_stopped(never, stop, "numbers", said.append)
    assert said == []


@pytest.mark.parametrize(
    ("deadline", "asked", "reason"),
    [
        pytest.param(None, "stopped by SIGTERM", "stopped by SIGTERM", id="a signal"),
        pytest.param(Deadline(time.monotonic(), "MAX_MINUTES=0"), "stopped by SIGTERM",
            "stopped by SIGTERM", id="a signal, without any time"),
        pytest.param(0.2, "", "MAX_MINUTES=1 is over", id="the time that is over meanwhile"),
    ],
)  # fmt: skip
def test_a_stop_ends_a_wait_for_what_does_not_look_at_it(short_waits, deadline, asked, reason):
    if isinstance(deadline, float):
        deadline = Deadline(time.monotonic() + deadline, "MAX_MINUTES=1")
    stop = StopRequest(deadline)
    if asked:
        stop.ask(asked)
    with pytest.raises(StopError, match=f"Waiting for the store was ended \\({reason}"):
        unless_stopped(hang, stop, "the store", lambda _: None)


def test_a_wait_that_nobody_ends_is_reported_and_has_an_end(short_waits):
    """A time that was over before it began does not end it: the first step is still taken."""
    said = []
    stop = StopRequest(Deadline(time.monotonic() - 1, "MAX_MINUTES=0"))
    with pytest.raises(RelayError, match="No end of waiting for the store") as caught:
        unless_stopped(hang, stop, "the store", said.append)
    assert not isinstance(caught.value, StopError)
    assert said
    assert all(line.startswith("waiting for the store: ") for line in said)
