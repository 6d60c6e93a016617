"""How sessions end: killed, asked to stop, overtaken."""

from __future__ import annotations

import random
import signal

from chaos.faults import BOTH, FOLDER, GCS, Fault
from chaos.leg import Leg
from chaos.process import LONGEST_SECONDS, SessionProcess, wait_until
from chaos.proxy import Weather
from chaos.troubles import clock


class Kill(Fault):
    """SIGKILL at a random instant."""

    def __init__(self, name: str, event: str, longest: float) -> None:
        super().__init__(name)
        self._event, self._longest = event, longest

    def act(self, leg: Leg) -> None:
        leg.wait_for_event(self._event)
        leg.pause(self._longest)
        if leg.process.kill():
            leg.hit(self.name)


class Terminate(Fault):
    """A signal that asks to stop, at a random instant."""

    def __init__(self, name: str, number: signal.Signals) -> None:
        super().__init__(name)
        self._number = number

    def act(self, leg: Leg) -> None:
        leg.wait_for_event("lease")
        leg.pause(2.0)
        if leg.process.alive:
            leg.process.signal(self._number)
            leg.finish()
            leg.hit(self.name)


class KillInside(Fault):
    """The session kills itself with SIGKILL at the n-th time that it passes a point."""

    def __init__(
        self, name: str, point: str, most: int, stores: tuple[str, ...] = BOTH, stop: bool = False
    ) -> None:
        super().__init__(name, stores)
        self._point, self._most, self._stop = point, most, stop

    def plan(self, leg: Leg) -> None:
        nth = leg.chance.randint(1, self._most)
        fault = {"kind": "kill", "label": self.name, "point": self._point, "nth": nth}
        leg.planned.append(fault)

    def act(self, leg: Leg) -> None:
        if self._stop:  # the point lies on the way to a pause
            leg.wait_for_event("trained")
            leg.process.signal(signal.SIGTERM)
        leg.finish()
        if leg.process.exit_code == -signal.SIGKILL:
            leg.process.killed = True
            leg.hit(self.name)


class KillInUpload(Fault):
    """SIGKILL when half of a part of a large upload has left."""

    def act(self, leg: Leg) -> None:
        process = leg.process
        weather = Weather("kill", random.Random(0), skip=leg.chance.randint(0, 12))
        weather.act = lambda: process.signal(signal.SIGKILL)
        leg.part.place.proxy.weather = weather
        leg.finish()
        leg.part.place.proxy.weather = None
        if process.exit_code == -signal.SIGKILL:
            process.killed = True
            leg.hit(self.name)


class Overtake(Fault):
    """A session is stopped, another one carries the run on, and the first wakes up."""

    alone = True

    def __init__(self, name: str, take_over: bool, between: bool = False) -> None:
        super().__init__(name)
        self._take_over, self._between = take_over, between
        """Between the look at the lease and the write that it allows."""

    def plan(self, leg: Leg) -> None:
        if self._between:
            point = leg.chance.choice(_FENCED)
            nth = leg.chance.randint(1, 3)
            leg.planned.append({"kind": "stop", "label": self.name, "point": point, "nth": nth})

    def act(self, leg: Leg) -> None:
        first = leg.process
        if not self._between:
            leg.wait_for_event("published")
            leg.pause(1.0)
            first.signal(signal.SIGSTOP)
        if not leg.wait_for(first.is_stopped):
            return
        second = leg.start(self._take_over)
        leg.wait_for_event("published", 1 if self._between else leg.chance.randint(1, 3))
        first.signal(signal.SIGCONT)
        if second.events("lease"):
            leg.hit(self.name)
            wait_until(lambda: not first.alive, LONGEST_SECONDS)
            leg.broken += _bad_farewell(first)

    def settle(self, leg: Leg) -> None:
        """One write or deletion may slip through, and cost one of the two newest checkpoints."""
        if not self._between or self.name not in leg.hits:
            return
        newest = set(sorted(leg.record.published)[-2:])
        there = {(token, step) for token, step, _ in leg.record.intact()}
        if newest and not newest & there:
            leg.broken.append(f"of {sorted(newest)} no checkpoint is left")
        if newest - there:
            leg.record.published &= there
            leg.troubled, leg.after.repetition = True, 2
            leg.notes.append(f"a write slipped through and cost {sorted(newest - there)}")


class Race(Fault):
    """Two sessions are started on a run at once."""

    alone = True

    def act(self, leg: Leg) -> None:
        first = leg.process
        leg.allowed.refusal = True
        second = leg.start()
        wait_until(lambda: first.events("lease") or second.events("lease"), 20)
        if first.events("started") and second.events("started"):
            leg.hit(self.name)
        wait_until(lambda: not (first.alive and second.alive), 20)
        if first.alive:
            leg.processes.reverse()
        leg.pause(1.0)


class WrongClock(Fault):
    """A second session, with a wrong clock, asks for a run that another one trains."""

    alone = True

    def __init__(self, name: str, ahead: bool) -> None:
        super().__init__(name)
        self._ahead = ahead

    def act(self, leg: Leg) -> None:
        leg.wait_for_event("published")
        leg.pause(0.5)
        leg.allowed.refusal = True
        leg.planned.append(clock(self.name, leg.chance, self._ahead))
        second = leg.start()
        wait_until(lambda: second.events("lease") or not second.alive, LONGEST_SECONDS)
        if second.hit_by(self.name):
            leg.hit(self.name)
        if second.alive:
            leg.pause(1.0)
        else:
            leg.processes.reverse()

    def settle(self, leg: Leg) -> None:
        """Rule: a run is not taken from a session that renews its lease."""
        for process in leg.processes:
            lost = [e for e in process.events("result") if "taken over" in e["reason"]]
            if lost and self.name in leg.hits:
                leg.broken.append("a wrong clock took the run from a live session")


_FENCED = (
    "create of a manifest",
    "create of a .pt",
    "delete",
    "after delete",
    "write of status.json",
)


def _bad_farewell(first: SessionProcess) -> list[str]:
    """Rule: a session that lost its run pauses by itself and says why."""
    result = first.events("result")
    if first.exit_code == 0 and result and result[0]["state"] == "done":
        return []  # all was in the store before it was stopped
    if first.exit_code != 0 or not result or "taken over" not in result[0]["reason"]:
        return [f"lost its run and ended with {first.exit_code}: {first.text('errors')[-300:]!r}"]
    return []


ENDS: list[Fault] = [
    Kill("SIGKILL at a random instant", "begin", 2.0),
    Kill("SIGKILL while it starts", "started", 0.7),
    Terminate("SIGTERM at a random instant", signal.SIGTERM),
    Terminate("SIGHUP at a random instant", signal.SIGHUP),
    Overtake("SIGSTOP, the lease expires, another goes on, SIGCONT", take_over=False),
    Overtake("SIGSTOP, another one takes over, SIGCONT", take_over=True),
    Overtake("SIGSTOP between the look at the lease and the write", True, between=True),
    Race("two sessions at once"),
    WrongClock("a second session whose clock is hours ahead", ahead=True),
    WrongClock("a second session whose clock is hours behind", ahead=False),
    KillInside("SIGKILL while it packs", "torch.save", 4),
    KillInside("SIGKILL with half a file packed", "half a pack", 4),
    KillInside("SIGKILL in fsync", "fsync", 20, FOLDER),
    KillInside("SIGKILL before a new file gets its name", "link", 6, FOLDER),
    KillInside("SIGKILL after a new file got its name", "after link", 6, FOLDER),
    KillInside("SIGKILL before a rename", "rename", 12, FOLDER),
    KillInside("SIGKILL between the .pt and its manifest", "create of a manifest", 3),
    KillInside("SIGKILL between the manifest and tidying", "tidy", 3),
    KillInside("SIGKILL in the middle of tidying", "after delete", 10),
    KillInside("SIGKILL while it pauses, before the weights", "write of the weights", 1, stop=True),
    KillInside("SIGKILL while it pauses, after the weights", "write of model.json", 1, stop=True),
    KillInUpload("SIGKILL in the middle of an upload", GCS),
]
