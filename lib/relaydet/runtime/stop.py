"""When to stop: a signal from outside, a lost lease, or the end of the time that was given."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from relaydet.errors import RelayError, StopError
from relaydet.runtime.limits import Deadline

LOOK_SECONDS = 0.5
"""How often a process looks whether its parent is still there, and whether it is to stop."""
OBEY_SECONDS = 3.0
"""How long work that cannot look at the stop may still take after one was asked for."""
SAY_SECONDS = 60.0
"""How often it is reported what is waited for."""
GIVE_UP_SECONDS = 3600.0
"""After so long a wait for such work is an error."""

T = TypeVar("T")


class StopRequest:
    """Becomes true when training should save and pause; says why."""

    def __init__(self, deadline: Deadline | None = None) -> None:
        self.reason: str | None = None
        self.signalled = False
        """Whether a signal asked for it: whoever sent it waits, and may kill next."""
        self.reserve = 0.0
        """Seconds that the last save takes, as far as is known: it stops so much earlier."""
        self.deadline = deadline

    def ask(self, reason: str) -> None:
        """Ask for a stop; the first reason stays."""
        self.reason = self.reason or reason

    def seconds_left(self) -> float:
        """Seconds until it stops by itself; infinite without a deadline."""
        if self.deadline is None:
            return float("inf")
        return self.deadline.at - self.deadline.margin - self.reserve - time.monotonic()

    def __bool__(self) -> bool:
        if self.deadline is not None and self.seconds_left() <= 0:
            kept = self.deadline.margin + self.reserve
            self.ask(f"{self.deadline.reason} is over, but for {kept:.0f} s to save in")
        return self.reason is not None


def unless_stopped(
    work: Callable[[], T], stop: StopRequest, what: str, say: Callable[[str], None]
) -> T:
    """Return what some work returns that cannot look at the stop itself, such as reading a store.

    It is done in a thread, which a stop leaves behind: it must not write anything.

    Args:
        work: is done; what it raises is raised here.
        stop: ends the wait, OBEY_SECONDS after it was asked for. A time that was over before does
            not: a session that was given none at all still takes its first step.
        what: what is waited for, to be reported every minute.
        say: takes that line.

    Raises:
        StopError: a stop was asked for meanwhile.
        RelayError: it took longer than GIVE_UP_SECONDS.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="unless stopped", daemon=True)
    thread.start()
    had_time = stop.seconds_left() > 0
    began, asked, lines = time.monotonic(), float("inf"), 1
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        now = time.monotonic()
        if stop.reason is not None or (had_time and stop):
            asked = min(asked, now)
        if not thread.is_alive():
            break
        if now - asked >= OBEY_SECONDS:
            raise StopError(f"Waiting for {what} was ended ({stop.reason}); run again to go on.")
        if now - began >= GIVE_UP_SECONDS:
            minutes = f"{GIVE_UP_SECONDS / 60:g} minutes"
            raise RelayError(f"No end of waiting for {what} in {minutes}; see why, and run again.")
        if now - began >= SAY_SECONDS * lines:
            lines += 1
            say(f"waiting for {what}: {(now - began) / 60:.0f} of {GIVE_UP_SECONDS / 60:g} min")
    if failed:
        raise failed[0]
    return done[0]


def stop_without_parent(stop: StopRequest, patience: float) -> None:
    """Ask for a pause once the process that started this one is gone, and end this one after that.

    Args:
        stop: is asked.
        patience: seconds that this process may take to save.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        stop.ask("the program that launched it is gone")
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turn Ctrl-C, a notebook's stop button, SIGTERM and SIGHUP into a request to pause.

    A second Ctrl-C interrupts at once. SIGHUP comes where a terminal or connection is closed; it
    stays ignored where it is, as under nohup. Signals can only be caught in the main thread;
    elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    pressed = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += number == signal.SIGINT
        if pressed > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signalled = True
        stop.ask(f"stopped by {signal.Signals(number).name}")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python; it cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
