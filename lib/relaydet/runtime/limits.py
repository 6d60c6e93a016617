"""How long a session may last: the runtime's limits, MAX_MINUTES, and the time that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from relaydet.runtime.detect import Runtime

_UPTIME = Path("/proc/uptime")
RUNTIME_MARGIN_SECONDS = 300.0
"""Kept free before a runtime's own limit: when exactly it counts from is not told anywhere."""


@dataclass(frozen=True)
class Limits:
    """What a runtime allows."""

    session_hours: float | None
    """Longest session; None where there is no limit."""
    interruption_hours: float
    """How long a session may hope to live undisturbed: the idle limit where there is one."""
    source: str
    """Where that comes from."""


# As of 2026-11. Colab counts nobody's clicks as idle after 90 minutes, whatever the GPU does.
LIMITS = {
    "colab": Limits(12, 1.5, "12 h at most and 90 min idle, by Colab's FAQ"),
    "colab_enterprise": Limits(None, 3, "3 h idle, Colab Enterprise's default"),
    "kaggle": Limits(12, 6, "12 h at most, by Kaggle's documentation; half of it, by assumption"),
    "gcp_notebook": Limits(None, 3, "3 h idle, Workbench's default"),
    "vertex_job": Limits(None, 24, "a day without a spot machine being taken, by assumption"),
    "local": Limits(None, 24, "a day without a power cut, by assumption"),
}


@dataclass(frozen=True)
class Deadline:
    """When a session has to be over."""

    at: float
    """On the clock of `time.monotonic`, in seconds."""
    reason: str
    """What ends then, for the user."""
    margin: float = 0.0
    """Seconds that are to be kept free before it."""


def find_deadline(
    runtime: Runtime, max_minutes: float | None, uptime: float | None = None
) -> Deadline | None:
    """When this session has to be over, counted from this call; None where nothing says so.

    Args:
        runtime: where it runs.
        max_minutes: what the user allows, which goes before the runtime's own limit.
        uptime: seconds since the machine was started; None asks the kernel.
    """
    now = time.monotonic()
    if max_minutes is not None:
        return Deadline(now + 60 * max_minutes, f"MAX_MINUTES={max_minutes:g}")
    hours = LIMITS[runtime.name].session_hours
    uptime = _uptime() if uptime is None else uptime
    if hours is None or uptime is None or uptime >= 3600 * hours:
        return None  # beyond the limit, the machine's start says nothing about the session's
    left = 3600 * hours - uptime
    reason = f"{runtime.name}'s limit of {hours:g} h, counted from the machine's start"
    return Deadline(now + left, reason, RUNTIME_MARGIN_SECONDS)


def _uptime() -> float | None:
    """Seconds since the kernel started; None where it does not tell."""
    try:
        return float(_UPTIME.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
