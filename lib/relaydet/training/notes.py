"""Notes that ranks leave each other in torch.distributed's store."""

from __future__ import annotations

import time
from typing import Any

LOOK_SECONDS = 0.05
"""How often somebody looks for a note."""


def leave(store: Any, name: str, note: str) -> None:
    """Leave a note that can be looked for without waiting, which torch's stores of 2.0 cannot."""
    store.set(name, note)
    store.add(f"{name}#", 1)


def has(store: Any, name: str) -> bool:
    """Whether somebody left the note."""
    return store.add(f"{name}#", 0) > 0


def found(store: Any, name: str, until: float) -> bool:
    """Wait for a note, until a time of `time.monotonic()`; whether it came."""
    while not has(store, name):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
