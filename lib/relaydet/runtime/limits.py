"""How long a session may last: the runtime's limits, MAX_MINUTES, and the time that is left."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from relaydet.errors import RelayError
from relaydet.places import UPTIME
from relaydet.runtime.detect import Runtime

SESSION_VARIABLE = "RELAYDET_SESSION_HOURS"
"""The longest session where the table is wrong for a user: 24 on Colab Pro+, 0 for no limit."""
RUNTIME_MARGIN_SECONDS = 300.0
"""Kept free before a runtime's own limit: when exactly it counts from is not told anywhere."""


@dataclass(frozen=True)
class Limits:
    """What a runtime allows."""

    session_hours: float | None
    """Longest session; None where there is no limit."""
    idle_hours: float | None
    """After how long without a user it is shut down; None where it is not, or nobody says."""
    interruption_hours: float
    """How long a session may hope to live undisturbed: the idle limit where there is one, else an
    assumption."""
    source: str
    """Where that comes from."""
    date: str
    """When it was looked up, YYYY-MM."""


# Colab counts nobody's clicks as idle, whatever the GPU does. A CI job has a limit of its own,
# 6 h on GitHub's machines, which a machine of one's own does not have: that is for MAX_MINUTES.
LIMITS = {
    "colab": Limits(12, 1.5, 1.5, "research.google.com/colaboratory/faq.html", "2026-11"),
    "colab_enterprise": Limits(None, 3, 3, "cloud.google.com/colab/docs/runtimes", "2026-11"),
    "kaggle": Limits(12, None, 6, "kaggle.com/docs/notebooks; undisturbed: half of it", "2026-11"),
    "gcp_notebook": Limits(None, 3, 3, "cloud.google.com/vertex-ai/docs/workbench", "2026-11"),
    "vertex_job": Limits(None, None, 24, "assumed: a spot machine may be taken", "2026-11"),
    "ci": Limits(None, None, 6, "docs.github.com/actions/reference/limits: 6 h a job", "2026-11"),
    "local": Limits(None, None, 24, "assumed: a day without a power cut", "2026-11"),
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
    runtime: Runtime,
    max_minutes: float | None,
    uptime: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Deadline | None:
    """When this session has to be over, counted from this call; None where nothing says so.

    Args:
        runtime: where it runs.
        max_minutes: what the user allows, which goes before the runtime's own limit.
        uptime: seconds since the machine was started; None asks the kernel.
        environment: may hold RELAYDET_SESSION_HOURS, which goes before the table.

    Raises:
        RelayError: RELAYDET_SESSION_HOURS is no number of hours.
    """
    now = time.monotonic()
    if max_minutes is not None:
        return Deadline(now + 60 * max_minutes, f"MAX_MINUTES={max_minutes:g}")
    hours, whose = session_hours(runtime, environment)
    uptime = machine_uptime() if uptime is None else uptime
    if hours is None or uptime is None or uptime >= 3600 * hours:
        return None  # beyond the limit, the machine's start says nothing about the session's
    left = 3600 * hours - uptime
    reason = f"{whose} of {hours:g} h, counted from the machine's start"
    return Deadline(now + left, reason, RUNTIME_MARGIN_SECONDS)


def session_hours(
    runtime: Runtime, environment: Mapping[str, str] = os.environ
) -> tuple[float | None, str]:
    """The longest session in hours, None for no limit, and whose limit it is.

    Raises:
        RelayError: RELAYDET_SESSION_HOURS is no number of hours.
    """
    given = environment.get(SESSION_VARIABLE, "")
    if not given:
        return LIMITS[runtime.name].session_hours, f"{runtime.name}'s limit"
    try:
        hours = float(given)
    except ValueError:
        hours = -1
    if not 0 <= hours < float("inf"):
        raise RelayError(
            f"{SESSION_VARIABLE} {given!r}: is no number of hours; give one such as 24, or 0 for"
            " no limit."
        )
    return hours or None, f"{SESSION_VARIABLE}"


def machine_uptime() -> float | None:
    """Seconds since the kernel started; None where it does not tell."""
    try:
        return float(UPTIME.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
