"""Saving without making training wait: packed here at once, carried to the store by a thread.

Training waits only while the checkpoint before is still on its way, and not once a stop was asked
for. Where the store fails, it does not wait: the newest checkpoint stays on this machine's disk,
the thread tries again and again, and says what to do. Nothing else writes to the run in the
meantime, so the order of things holds: a checkpoint, then the log and the status that tell of it.

Where this machine's own disk fails, a checkpoint is kept in memory and carried from there, one at a
time. Where the store fails as well nothing can be saved, and training ends with an error: at once
before its first step, else after UNSAVED_SECONDS.
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
LOOK_SECONDS = 0.5
"""How often a wait looks whether a stop was asked for."""
TELL_SECONDS = 60.0
"""After so long, and again each time, a wait says what it waits for."""
LOG = ".jsonl"
"""Ending of files that grow: they are written whole once, and what is new is appended."""
UNSAVED_SECONDS = 1800.0
"""How long training goes on while neither this machine's disk nor the store takes a checkpoint."""
LEAST_PATIENCE_SECONDS = 120.0
"""How long training waits at least for a checkpoint that is on its way."""
SIGNALLED_SECONDS = 8.0
"""How long a store that is away is waited for after a signal: whoever sent it may kill next, and
the checkpoint is on this machine's disk."""
UNKNOWN_CARRY_SECONDS = 10.0
"""What the first checkpoint of a session is assumed to take to the store."""
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
        stop: Callable[[], object] = lambda: False,
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
            stop: true once training should stop: it then waits for no checkpoint on its way.
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
        self.dropped: int | None = None
        """Step of a checkpoint that this machine's disk did not give back for the store."""
        self._store, self._run = store, run
        self._lineage, self._keep, self._say = lineage, keep, say
        self._when_published, self._stop = when_published, stop
        self._disk_trouble = ""
        self._unremoved = self._carries_memory = False
        self._unsafe_since: float | None = None
        self._waiting: Packed | None = None
        self._files: dict[str, bytes] = {}
        self._logs: dict[str, bytes] = {}
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
            Whether it is handed over; where not, the reason was said.

        Raises:
            RelayError: neither this machine's disk nor the store takes a checkpoint.
        """
        if not at_once:
            self._wait_while_on_its_way()
        if self.dropped is not None:
            return self._save_from_memory(step, state, facts, at_once)
        started = time.monotonic()
        try:
            packed = pack(self.folder, step, self._lineage, state, facts)
        except OSError as error:
            self._say_disk_trouble(f"{self.folder}: {error.strerror or error}")
            return self._save_from_memory(step, state, facts, at_once)
        self.pack_seconds = time.monotonic() - started
        self._disk_trouble, self._unsafe_since = "", None
        self._hand_over(packed)
        return True

    def _hand_over(self, packed: Packed) -> None:
        with self._changed:
            older, self._waiting = self._waiting, packed
            self._changed.notify_all()
        if older and older.file != packed.file:
            self._remove(older)

    def _save_from_memory(
        self, step: int, state: dict[str, Any], facts: dict[str, Any], at_once: bool
    ) -> bool:
        """Keep a checkpoint in memory for the store, as this machine's disk does not take it."""
        with self._changed:
            self._unsafe_since = self._unsafe_since or time.monotonic()
            seconds = time.monotonic() - self._unsafe_since
            if seconds > UNSAVED_SECONDS:
                raise self._nothing_is_saved(f"for {seconds / 60:.0f} minutes", step)
            if self._waiting and self._waiting.data is not None:
                self._waiting = None  # its memory is needed for the newer one
            if self._carries_memory and not at_once:
                return False  # it is on its way, and there is memory for one
        started = time.monotonic()
        packed = pack(self.folder, step, self._lineage, state, facts, in_memory=True)
        self.pack_seconds = time.monotonic() - started
        self._hand_over(packed)
        if step == self._lineage.resumed_from and not at_once:
            self._wait_while_on_its_way()
            if self.trouble:
                raise self._nothing_is_saved("of this session", step)
        return True

    def _nothing_is_saved(self, since: str, step: int) -> RelayError:
        store = self.trouble.rstrip(".") or "it is too slow"
        return RelayError(
            f"Step {step}: nothing {since} could be saved: neither on this machine's disk"
            f" ({self._disk_trouble}) nor in the store ({store}); set RELAYDET_CACHE to a folder"
            " that can be written to, and run again."
        )

    def _say_disk_trouble(self, what: str) -> None:
        """Say it once; one that was said and is over is said again."""
        if not self._disk_trouble:
            self._say(
                f"this machine's disk does not take a checkpoint ({what}); free space on it, or set"
                " RELAYDET_CACHE to a folder on another one; training goes on, and checkpoints go"
                " to the store from memory"
            )
        self._disk_trouble = what

    def _remove(self, packed: Packed) -> None:
        """Free the disk; one that does not let go is no reason to end."""
        try:
            packed.remove()
        except OSError as error:
            if not self._unremoved:
                self._say(
                    f"{packed.file}: cannot be removed ({error.strerror or error}); training goes"
                    " on, and it takes space until it is deleted"
                )
            self._unremoved = True

    def write(self, name: str, data: bytes) -> None:
        """Hand a small file over; of several under one name only the last is written."""
        with self._changed:
            self._files[name] = data
            self._changed.notify_all()

    def finish(self, seconds: float, signalled: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all is in the store.

        Args:
            seconds: how long at most.
            signalled: whether a signal asks this process to end; may become true meanwhile. Then
                a store that is away, or far slower than before, is waited for some seconds only,
                unless the checkpoint is in memory alone.

        Returns:
            Whether it is; `trouble` or `lost` tells why not.
        """
        until, tell_at = time.monotonic() + seconds, time.monotonic() + TELL_SECONDS
        since: float | None = None
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            while self._has_more() and not self._ended() and time.monotonic() < until:
                self._changed.wait(min(LOOK_SECONDS, max(0.01, until - time.monotonic())))
                if time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + TELL_SECONDS
                    self._tell_wait(until - time.monotonic())
                if since is None and signalled():
                    since = time.monotonic()
                if since is not None and time.monotonic() - since >= self._signalled_patience():
                    break
            self._hurried = False
            self._raise_failure()
            return not self._has_more() and not self.lost

    def _signalled_patience(self) -> float:
        """Seconds to wait for the store once a signal has asked this process to end."""
        if self._disk_trouble:
            return float("inf")  # nothing but the store can keep what is in memory
        usual = 0.0 if self.trouble else 3 * (self.carry_seconds or UNKNOWN_CARRY_SECONDS)
        return max(SIGNALLED_SECONDS, usual)

    def kept_in(self) -> str:
        """Where what is not in the store yet is kept, as a person would say it."""
        return "memory alone" if self._disk_trouble else str(self.folder)

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
        until, tell_at = time.monotonic() + patience, time.monotonic() + TELL_SECONDS
        with self._changed:
            while (self._waiting or self._busy) and not (self.trouble or self._ended()):
                left = until - time.monotonic()
                if left <= 0 or self._stop():
                    break
                self._changed.wait(min(LOOK_SECONDS, left))
                if time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + TELL_SECONDS
                    self._tell_wait(until - time.monotonic())
            self._raise_failure()

    def _tell_wait(self, seconds: float) -> None:
        self._say(
            f"waiting for {self._store.describe(f'runs/{self._run}')} to take what was saved, for"
            f" {max(0.0, seconds):.0f} s more at most"
        )

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
                self._carries_memory = packed is not None and packed.data is not None
            try:
                self._carry(packed, files)
                wait, self.trouble = FIRST_WAIT_SECONDS, self._recovered()
            except LeaseLostError as error:
                self.lost = str(error)
                return
            except RelayError as error:
                packed = self._still_readable(packed)
                self._say_trouble(error)
                self._take_back(packed, files)
                packed = None  # it may be in memory, and a newer one take its place
                wait = self._rest(wait)
            except Exception as error:
                self._failure = error  # raised where training would otherwise wait for ever
                return
            finally:
                packed = None
                with self._changed:
                    self._busy = self._carries_memory = False
                    self._changed.notify_all()

    def _still_readable(self, packed: Packed | None) -> Packed | None:
        """Give up a checkpoint that this machine's disk does not give back: trying is no use."""
        if not packed or packed.manifest["step"] == self.published:
            return packed
        if not (reason := packed.unreadable()):
            return packed
        step = packed.manifest["step"]
        self._say(
            f"step {step}: its checkpoint cannot be read back from this machine's disk ({reason});"
            " training goes on, and the next ones go to the store from memory"
        )
        self.dropped, self._disk_trouble = step, reason
        self._unsafe_since = self._unsafe_since or time.monotonic()
        self._remove(packed)
        return None

    def _carry(self, packed: Packed | None, files: dict[str, bytes]) -> None:
        if packed:
            started = time.monotonic()
            publish(self._store, self._run, packed)
            self.carry_seconds = time.monotonic() - started
            self.published = packed.manifest["step"]
            self._unsafe_since = None
            self._remove(packed)
            self._tell_published()
            tidy(self._store, self._run, packed.manifest, self._keep())
        for name in list(files):
            self._put(name, files[name])
            del files[name]

    def _put(self, name: str, data: bytes) -> None:
        """Write a file; of a log that only grew, what is new."""
        before = self._logs.get(name)
        if before is None or not data.startswith(before) or not self._append(name, before, data):
            self._store.write(name, data)
        if name.endswith(LOG):
            self._logs[name] = data

    def _append(self, name: str, before: bytes, data: bytes) -> bool:
        new = data[len(before) :]
        return not new or self._store.append(name, before, new)

    def _tell_published(self) -> None:
        try:
            self._when_published()
        except OSError as error:
            self._say(f"{self.folder}: older checkpoints there cannot be removed ({error})")

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
            self._remove(packed)

    def _rest(self, wait: float) -> float:
        """Wait before the next try, unless the session ends; returns how long to wait after it."""
        with self._changed:
            self._busy = self._carries_memory = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._hurried, timeout=wait)
            hurried, self._hurried = self._hurried, False
        return FIRST_WAIT_SECONDS if hurried else min(2 * wait, LONGEST_WAIT_SECONDS)

    def _say_trouble(self, error: RelayError) -> None:
        if not self.trouble:
            self._say(
                f"{str(error).rstrip('.')}. Training goes on; what it saves is kept in"
                f" {self.kept_in()} and carried over when the store is back."
            )
        self.trouble = str(error)

    def _recovered(self) -> str:
        if self.trouble:
            self._say("the store is back, and has everything again")
        return ""
