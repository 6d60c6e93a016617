"""One leg of a run: a session, what is done to it, and how it ends."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chaos.process import LONGEST_SECONDS, SessionProcess, wait_until
from chaos.rules import Allowed, RunRecord

if TYPE_CHECKING:
    from chaos.harness import Part


class Leg:
    """What faults get to work with."""

    def __init__(self, part: Part, record: RunRecord, number: int, chance: random.Random) -> None:
        self.part, self.record, self.number, self.chance = part, record, number, chance
        self.allowed = Allowed()
        """For this leg's sessions."""
        self.after = Allowed()
        """For the session that comes next."""
        self.troubled = False
        """Whether the store failed meanwhile."""
        self.hits: list[str] = []
        """Names of the faults that took place."""
        self.processes: list[SessionProcess] = []
        self.planned: list[dict[str, Any]] = []
        """What the session is to do to itself."""
        self.notes: list[str] = []
        """What else is worth a line of the log."""
        self.broken: list[str] = []
        """Rules that were seen to be broken."""
        self.trouble_seconds = 0.0
        """How long a trouble lasts that the session makes for itself."""
        self.every_step = True
        """Whether it saves after every step, or at the end of each epoch only."""
        self.workers: int | None = None
        """Loader processes of its sessions; None leaves them to chance."""

    @property
    def process(self) -> SessionProcess:
        """The session that carries the run at the moment: the last one started."""
        return self.processes[-1]

    def hit(self, name: str) -> None:
        """Count a fault that took place."""
        self.hits.append(name)

    def start(self, take_over: bool = False) -> SessionProcess:
        """Start a session on the run."""
        faults, self.planned = self.planned, []
        spec = self.part.spec(self.record.name, self.chance, self.every_step, take_over, faults)
        if self.workers is not None:
            spec["config"]["workers"] = self.workers
        folder = self.part.folder / f"leg-{self.number:04d}" / f"session-{len(self.processes)}"
        process = SessionProcess(spec, folder)
        self.processes.append(process)
        return process

    def wait_for(self, condition: Callable[[], Any], seconds: float = LONGEST_SECONDS) -> bool:
        """Watch the run until something holds or the session ends; returns whether it holds."""
        wait_until(lambda: condition() or not self.process.alive, seconds, self.record.look)
        return bool(condition())

    def wait_for_event(self, name: str, times: int = 1) -> bool:
        """Wait until the session has written something down so often."""
        process = self.process
        return self.wait_for(lambda: len(process.events(name)) >= times)

    def pause(self, longest: float) -> None:
        """Let the session go on for a random while."""
        self.wait_for(lambda: False, self.chance.uniform(0, longest))

    def finish(self) -> bool:
        """Wait until the session ends by itself; returns whether it did."""
        process = self.process
        return self.wait_for(lambda: not process.alive)

    def wind_up(self) -> None:
        """End what still runs, politely."""
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
            if not wait_until(lambda process=process: not process.alive, LONGEST_SECONDS):
                self.broken.append("does not end")
                process.kill()

    def is_behind(self) -> bool:
        """Whether the store may lack more than what was on its way."""
        return self.troubled or any(
            not event["in_store"] for process in self.processes for event in process.events("begin")
        )

    def clean(self) -> None:
        """Leave no process behind."""
        for process in self.processes:
            process.end()
