"""When to stop: a signal from outside, a lost lease, or the end of the time that was given."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from relaydet.runtime.limits import Deadline

LOOK_SECONDS = 0.5
"""How often a process looks whether its parent is still there."""


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
