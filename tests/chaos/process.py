"""A session as the harness sees it: a process to signal, and the events that it wrote down."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from chaos import session

FORKED = multiprocessing.get_context("forkserver")
POLL_SECONDS = 0.03
LONGEST_SECONDS = 60.0
"""A session that takes longer than this hangs."""


def import_once() -> None:
    """Import torch and the library in a process from which all sessions are forked."""
    FORKED.set_forkserver_preload(
        ["relaydet.jobs.train", "relaydet.storage.gcs", "google.cloud.storage", "google_crc32c"]
    )
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; bits depend on it
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


class SessionProcess:
    """A started session."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """Start it.

        Args:
            spec: see `session.main`; where it writes to is added here.
            folder: for its files; they stay for whoever looks into a violation.
        """
        folder.mkdir(parents=True)
        self.folder = folder
        self.interval = spec["interval"]
        self.killed = False
        """Whether the harness or the session itself sent it a SIGKILL."""
        files = {name: str(folder / name) for name in ("output", "errors", "events")}
        (folder / "spec.json").write_text(json.dumps({**spec, **files}, indent=1))
        self._process = FORKED.Process(target=session.main, args=(str(folder / "spec.json"),))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def alive(self) -> bool:
        """Whether it has not ended; stopped ones have not."""
        return self._process.exitcode is None

    @property
    def exit_code(self) -> int | None:
        """0, 2, or the negative number of a signal."""
        return self._process.exitcode

    def hit_by(self, label: str) -> bool:
        """Whether a fault that was planned for it took place."""
        return any(event["label"] == label for event in self.events("fault"))

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What it wrote down so far, of one kind or all."""
        try:
            lines = (self.folder / "events").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [event for event in found if name in ("", event["event"])]

    def text(self, name: str) -> str:
        """Its output or its errors."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def children(self) -> list[int]:
        """Process ids of its loader processes, on Linux; see proc(5)."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(word) for word in found.read_text().split()]
        except OSError:  # it has ended
            return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the session, not to its loader processes."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL; returns whether it was in time."""
        self.signal(signal.SIGKILL)
        self._process.join(LONGEST_SECONDS)
        self.killed = self.killed or self.exit_code == -signal.SIGKILL
        return self.killed

    def is_stopped(self) -> bool:
        """Whether a SIGSTOP has taken hold."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def end(self) -> None:
        """Leave nothing of it behind, whatever happened."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.alive:
            self.signal(signal.SIGKILL)
        self._process.join(LONGEST_SECONDS)


def wait_until(
    condition: Callable[[], Any], seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> bool:
    """Poll a condition; returns whether it came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        meanwhile()
        time.sleep(POLL_SECONDS)
    return True
