"""What happens while sessions train: a store that fails, a network that does, a nap."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections.abc import Callable
from typing import Any

from chaos.faults import BOTH, FOLDER, GCS, Fault
from chaos.leg import Leg
from chaos.process import wait_until
from chaos.proxy import Weather

_HARMLESS = frozenset({"clock", "stdout closed", "shared memory"})
"""Troubles of this machine in spite of which a session trains on and saves as ever."""


class Inner(Fault):
    """A trouble that the session makes for itself from some call on, for a while."""

    def __init__(
        self, name: str, make: Callable[[random.Random], dict[str, Any]], stores: tuple[str, ...]
    ) -> None:
        super().__init__(name, stores)
        self._make = make

    def plan(self, leg: Leg) -> None:
        planned = {**self._make(leg.chance), "label": self.name}
        leg.planned.append(planned)
        leg.trouble_seconds = planned.get("seconds", 0)
        if planned["kind"] in _HARMLESS:
            leg.workers = leg.chance.choice((1, 2)) if self._uses_workers else leg.workers
            return
        leg.allowed.refusal = leg.troubled = True
        if planned["kind"].startswith("cache"):
            leg.after.repetition = None  # what it could not keep here may not be in the store yet

    @property
    def _uses_workers(self) -> bool:
        return self._make is _shared_memory

    def act(self, leg: Leg) -> None:
        process = leg.process
        if leg.wait_for(lambda: process.hit_by(self.name), 15):
            leg.hit(self.name)
            leg.wait_for(lambda: False, leg.trouble_seconds + 0.2)


class WorkersKilled(Fault):
    """SIGKILL to a loader process, as from the kernel where memory runs out."""

    def plan(self, leg: Leg) -> None:
        leg.workers = leg.chance.choice((1, 2))

    def act(self, leg: Leg) -> None:
        leg.wait_for_event("trained", leg.chance.randint(1, 2))
        leg.pause(0.3)
        workers = leg.process.children()
        if workers:
            os.kill(leg.chance.choice(workers), signal.SIGKILL)
            leg.hit(self.name)
            leg.pause(1.0)


class Away(Fault):
    """The folder vanishes, as a mount that dies, and comes back."""

    def act(self, leg: Leg) -> None:
        folder = leg.part.place.folder
        hidden = folder.with_name("away")
        leg.allowed.refusal = leg.troubled = True
        leg.wait_for_event("started")
        leg.pause(1.5)
        if leg.process.alive:
            folder.rename(hidden)
            leg.hit(self.name)
            leg.pause(2.0)
            if folder.exists():
                leg.broken.append("made the folder anew while it was away")
                shutil.rmtree(folder)
            hidden.rename(folder)


class Network(Fault):
    """Bad weather between the session and the bucket."""

    def __init__(self, name: str, kind: str, longest: float, share: float, status: int = 503):
        super().__init__(name, GCS)
        self._kind, self._longest, self._share, self._status = kind, longest, share, status

    def act(self, leg: Leg) -> None:
        proxy = leg.part.place.proxy
        leg.allowed.refusal = leg.troubled = True
        leg.wait_for_event(leg.chance.choice(("started", "begin", "trained")))
        leg.pause(0.7)
        chance = random.Random(leg.chance.random())  # it is asked from other threads
        weather = Weather(self._kind, chance, self._share, self._status)
        proxy.weather = weather
        leg.wait_for(lambda: weather.hits, 8)
        leg.wait_for(lambda: False, leg.chance.uniform(0.3, 1) * self._longest)
        proxy.weather = None
        if weather.hits:
            leg.hit(self.name)


class Nap(Fault):
    """SIGSTOP for less than the lease lives, SIGCONT: it goes on as if nothing had been."""

    def act(self, leg: Leg) -> None:
        leg.wait_for_event("begin")
        leg.pause(1.0)
        leg.process.signal(signal.SIGSTOP)
        if leg.wait_for(leg.process.is_stopped, 2):
            wait_until(lambda: False, leg.chance.uniform(0.1, 1.0))
            leg.process.signal(signal.SIGCONT)
            leg.hit(self.name)


def _errors(number: int, everything: bool) -> Callable[[random.Random], dict[str, Any]]:
    return lambda chance: {
        "kind": "errors",
        "number": number,
        "everything": everything,
        "first": chance.randint(1, 600 if everything else 60),
        "seconds": chance.uniform(0.3, 2.0),
    }


def _slow(chance: random.Random) -> dict[str, Any]:
    return {"kind": "slow", "pause": 0.1, "first": chance.randint(1, 60), "seconds": 2.0}


def _cache_full(chance: random.Random) -> dict[str, Any]:
    seconds = chance.uniform(0.3, 1.0)
    return {"kind": "cache full", "first": chance.randint(1, 4), "seconds": seconds}


def _cache_read_only(chance: random.Random) -> dict[str, Any]:
    seconds = chance.uniform(0.3, 2.0)
    return {"kind": "cache read-only", "first": chance.randint(1, 30), "seconds": seconds}


def clock(label: str, chance: random.Random, ahead: bool) -> dict[str, Any]:
    """A session whose clock is wrong by some hours."""
    hours = chance.uniform(0.5, 24) * (1 if ahead else -1)
    return {"kind": "clock", "label": label, "hours": hours}


def _stdout_closed(chance: random.Random) -> dict[str, Any]:
    return {"kind": "stdout closed", "nth": chance.randint(1, 4)}


def _shared_memory(_chance: random.Random) -> dict[str, Any]:
    return {"kind": "shared memory", "size": 1 << 18}


def _empty(chance: random.Random) -> dict[str, Any]:
    return {"kind": "empty", "nth": chance.randint(1, 3)}


TROUBLES: list[Fault] = [
    Inner("disk full (ENOSPC)", _errors(errno.ENOSPC, everything=False), FOLDER),
    Inner("quota used up (EDQUOT)", _errors(errno.EDQUOT, everything=False), FOLDER),
    Inner("I/O error (EIO)", _errors(errno.EIO, everything=True), FOLDER),
    Inner("mount dead (ENOTCONN)", _errors(errno.ENOTCONN, everything=True), FOLDER),
    Inner("slow disk", _slow, FOLDER),
    Inner("a write that keeps no byte", _empty, FOLDER),
    Away("the folder goes away and comes back", FOLDER),
    Inner("the machine's own disk full", _cache_full, BOTH),
    Inner("the machine's own disk read-only", _cache_read_only, BOTH),
    Inner("the clock hours ahead", lambda c: clock("", c, ahead=True), BOTH),
    Inner("the clock hours behind", lambda c: clock("", c, ahead=False), BOTH),
    Inner("standard output closed", _stdout_closed, BOTH),
    Inner("shared memory full", _shared_memory, BOTH),
    WorkersKilled("a loader process killed"),
    Nap("SIGSTOP shorter than the lease"),
    Network("503", "status", 1.0, 0.7, 503),
    Network("429", "status", 1.0, 0.7, 429),
    Network("401", "status", 1.0, 0.7, 401),
    Network("403 (full: quota or billing)", "status", 1.0, 0.7, 403),
    Network("503 for longer than it tries", "status", 5.0, 1.0, 503),
    Network("reset before the server sees it", "reset", 1.0, 0.5),
    Network("reset after the server has done it", "lost", 1.0, 0.5),
    Network("slow answers", "slow", 2.0, 0.6),
    Network("an upload cut in the middle", "cut", 1.5, 0.5),
]
