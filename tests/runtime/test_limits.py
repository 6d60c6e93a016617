"""When to stop: deadlines and signals become a request, and the handlers are put back."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from relaydet.runtime.limits import StopRequest, stop_on_signals

HANDLED = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("max_minutes", "seconds", "reason"),
    [
        pytest.param(None, 1e9, None, id="no limit"),
        pytest.param(2.0, 119.0, None, id="not yet"),
        pytest.param(2.0, 120.0, "MAX_MINUTES=2 are over", id="over"),
        pytest.param(0.5, 31.0, "MAX_MINUTES=0.5 are over", id="half a minute"),
        pytest.param(0.0, 0.0, "MAX_MINUTES=0 are over", id="none at all"),
    ],
)
def test_the_deadline(monkeypatch, max_minutes, seconds, reason):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = StopRequest(max_minutes)
    clock[0] += seconds
    assert bool(stop) == (reason is not None)
    assert stop.reason == reason


def test_the_first_reason_stays():
    stop = StopRequest(max_minutes=0)
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
