"""How far a run is, how long it will take, and how many more sessions like this one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Outlook:
    """What is left of a run, by the speed of the present session."""

    step: int
    """Optimizer steps done."""
    total_steps: int
    seconds_left: float | None
    """Time to the end; None before the first step of a session."""
    sessions_left: int | None
    """Further sessions that do as many steps as this one; None where this one did none."""

    def __str__(self) -> str:
        share = f"step {self.step} of {self.total_steps} ({self.step / self.total_steps:.0%})"
        if self.step == self.total_steps or self.seconds_left is None:
            return share
        more = f"{share}, {duration(self.seconds_left)} to go"
        if self.sessions_left:
            plural = "session" if self.sessions_left == 1 else "sessions"
            more += f": {self.sessions_left} more {plural} as long as this one"
        return more


def look_ahead(first_step: int, step: int, total_steps: int, seconds: float) -> Outlook:
    """What is left after a session that went from one step to another in so many seconds."""
    done, left = step - first_step, total_steps - step
    if done <= 0:
        return Outlook(step, total_steps, None if left else 0.0, None if left else 0)
    return Outlook(step, total_steps, left * seconds / done, math.ceil(left / done))


def duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
