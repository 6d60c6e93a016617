"""What a fault is: it is drawn by seed, and counts only once it took place."""

from __future__ import annotations

from chaos.leg import Leg

FOLDER, GCS = ("folder",), ("gcs",)
BOTH = FOLDER + GCS


class Fault:
    """Something that happens to a run."""

    alone = False
    """Whether it leaves no room for a trouble of the store."""

    def __init__(self, name: str, stores: tuple[str, ...] = BOTH) -> None:
        self.name, self.stores = name, stores

    def plan(self, leg: Leg) -> None:
        """Before the session starts: what it shall do to itself."""

    def act(self, leg: Leg) -> None:
        """While it runs; `leg.hit` counts what took place."""

    def settle(self, leg: Leg) -> None:
        """When all has ended and was judged, and the next session has not started."""
