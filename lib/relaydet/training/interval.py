"""How often to save: what a save costs against what an interruption would lose."""

from __future__ import annotations

import math

from relaydet.runtime.detect import Runtime
from relaydet.runtime.limits import LIMITS

SHORTEST_SECONDS = 60.0
LONGEST_SECONDS = 1800.0


def choose_interval(
    pack_seconds: float, carry_seconds: float, runtime: Runtime
) -> tuple[float, str]:
    """Seconds between two checkpoints, and why.

    The interval is that which loses the least time on the whole: the
    square root of 2 x cost of a save x mean time between interruptions (Young, "A first order
    approximation to the optimum checkpoint interval", CACM 1974), between one minute and thirty,
    and within these no shorter than twice what a checkpoint takes to the store.

    Args:
        pack_seconds: how long training stands still for a save.
        carry_seconds: how long a checkpoint takes to the store, while training goes on.
        runtime: where this is; `LIMITS` says how long a session may hope to live there.
    """
    limits = LIMITS[runtime.name]
    best = math.sqrt(2 * pack_seconds * 3600 * limits.interruption_hours)
    seconds = min(max(best, SHORTEST_SECONDS, 2 * carry_seconds), LONGEST_SECONDS)
    return seconds, (
        f"a save holds training up for {pack_seconds:.1f} s and is in the store after"
        f" {carry_seconds:.1f} s more; on {runtime.name} it may live"
        f" {limits.interruption_hours:g} h"
    )
