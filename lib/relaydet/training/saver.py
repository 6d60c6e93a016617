"""Saving without making training wait: packed here at once, carried to the store by a thread.

Training waits only while the checkpoint before is still on its way. Where the store fails, it does
not wait: the newest checkpoint stays on this machine's disk, the thread tries again and again, and
says what to do. Nothing else writes to the run in the meantime, so the order of things holds: a
checkpoint, then the log and the status that tell of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relaydet.errors import LeaseLostError, RelayError
from relaydet.storage.store import Store
from relaydet.training.checkpoint import Keep, Lineage, Packed, pack, publish, tidy

FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
LEAST_PATIENCE_SECONDS = 120.0
"""How long training waits at least for a checkpoint that is on its way."""
MOST_PATIENCE_SECONDS = 300.0
"""And at most: other ranks wait as well, and count one that does not answer as lost."""


class Saver:
    """Carries checkpoints and small files of one run to the store."""

    def __init__(
        self,
        store: Store,
        run: str,
        folder: Path,
        lineage: Lineage,
        keep: Callable[[], Keep],
        say: Callable[[str], None] = print,
        when_published: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread.

        Args:
            store: fenced by the run's lease.
            run: name of the run.
            folder: on this machine's disk, for checkpoints that are not in the store yet.
            lineage: goes into each manifest.
            keep: asked before older checkpoints are removed.
            say: takes what the user should know, also from the thread.
            when_published: called after every checkpoint that has reached the store.
        """
        self.pack_seconds = 0.0
        """What the last checkpoint cost training, at least."""
        self.carry_seconds = 0.0
        """How long the last one took to the store."""
        self.published: int | None = None
        """Step of the last checkpoint that the store has."""
        self.trouble = ""
        """What keeps things from the store at the moment."""
        self.lost = ""
        """How the run was lost to another session; nothing is written any more then."""
        self.folder = folder
        """Where checkpoints are that are not in the store yet."""
        self._store, self._run = store, run
        self._lineage, self._keep, self._say = lineage, keep, say
        self._when_published = when_published
        self._waiting: Packed | None = None
        self._files: dict[str, bytes] = {}
        self._busy = False
        self._closed = False
        self._hurried = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._carry_all, name="saver", daemon=True)
        self._thread.start()

    def save(
        self, step: int, state: dict[str, Any], facts: dict[str, Any], at_once: bool = False
    ) -> bool:
        """Pack a checkpoint and hand it over.

        Args:
            step: optimizer steps done.
            state: what to save.
            facts: what to say of it.
            at_once: do not wait for the one before to be in the store: there is no time.

        Returns:
            Whether it is safe on this machine's disk; where not, the reason was said.
        """
        if not at_once:
            self._wait_while_on_its_way()
        started = time.monotonic()
        try:
            packed = pack(self.folder, step, self._lineage, state, facts)
        except OSError as error:
            self._say(
                f"step {step}: no checkpoint could be written to {self.folder}"
                f" ({error.strerror or error}); free space on this machine's disk, or set"
                " RELAYDET_CACHE to a folder on a larger one; training goes on"
            )
            return False
        self.pack_seconds = time.monotonic() - started
        with self._changed:
            older, self._waiting = self._waiting, packed
            self._changed.notify_all()
        if older and older.file != packed.file:
            older.remove()
        return True

    def write(self, name: str, data: bytes) -> None:
        """Hand a small file over; of several under one name only the last is written."""
        with self._changed:
            self._files[name] = data
            self._changed.notify_all()

    def finish(self, seconds: float) -> bool:
        """Wait until all is in the store, for so many seconds at most.

        Returns:
            Whether it is; `trouble` or `lost` tells why not.
        """
        until = time.monotonic() + seconds
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            while self._has_more() and not self._ended() and time.monotonic() < until:
                self._changed.wait(min(1.0, max(0.01, until - time.monotonic())))
            self._hurried = False
            self._raise_failure()
            return not self._has_more() and not self.lost

    def close(self) -> None:
        """Stop the thread after what it is doing now; what is not in the store stays here."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def _ended(self) -> bool:
        return bool(self.lost or self._failure)

    def _has_more(self) -> bool:
        return bool(self._waiting or self._files or self._busy)

    def _wait_while_on_its_way(self) -> None:
        """Not for ever: a mount may block without an error, and a deadline does not wait."""
        patience = min(max(LEAST_PATIENCE_SECONDS, 5 * self.carry_seconds), MOST_PATIENCE_SECONDS)
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._waiting or self._busy) or self.trouble or self._ended(), patience
            )
            self._raise_failure()

    def _carry_all(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            with self._changed:
                while not (self._waiting or self._files or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                packed, files = self._waiting, self._files
                self._waiting, self._files, self._busy = None, {}, True
            try:
                self._carry(packed, files)
                wait, self.trouble = FIRST_WAIT_SECONDS, self._recovered()
            except LeaseLostError as error:
                self.lost = str(error)
                return
            except RelayError as error:
                self._say_trouble(error)
                self._take_back(packed, files)
                wait = self._rest(wait)
            except Exception as error:
                self._failure = error  # raised where training would otherwise wait for ever
                return
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _carry(self, packed: Packed | None, files: dict[str, bytes]) -> None:
        if packed:
            started = time.monotonic()
            publish(self._store, self._run, packed)
            self.carry_seconds = time.monotonic() - started
            self.published = packed.manifest["step"]
            packed.remove()
            self._when_published()
            tidy(self._store, self._run, packed.manifest, self._keep())
        for name in list(files):
            self._store.write(name, files[name])
            del files[name]

    def _take_back(self, packed: Packed | None, files: dict[str, bytes]) -> None:
        """Try it once more later, unless something newer has come meanwhile."""
        with self._changed:
            self._files = {**files, **self._files}
            if packed and packed.manifest["step"] == self.published:
                return  # it is there, and the next one tidies up
            if packed and self._waiting is None:
                self._waiting = packed
                return
        if packed:
            packed.remove()

    def _rest(self, wait: float) -> float:
        """Wait before the next try, unless the session ends; returns how long to wait after it."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._hurried, timeout=wait)
            hurried, self._hurried = self._hurried, False
        return FIRST_WAIT_SECONDS if hurried else min(2 * wait, LONGEST_WAIT_SECONDS)

    def _say_trouble(self, error: RelayError) -> None:
        if not self.trouble:
            self._say(
                f"{str(error).rstrip('.')}. Training goes on; what it saves is kept in"
                f" {self.folder} and carried over when the store is back."
            )
        self.trouble = str(error)

    def _recovered(self) -> str:
        if self.trouble:
            self._say("the store is back, and has everything again")
        return ""
