"""One writer per run: a lease with a fencing token.

Whoever trains a run holds its lease and renews it; a lease that is not renewed expires. Each lease
has a token, one higher than the one before. The token is taken by creating the file
STORE/runs/RUN/leases/00000007.json, which only one can (see `Store.create`) and which nobody ever
overwrites or deletes: whoever holds the highest one holds the run, and before anything is written
to the run the holder looks whether it still is the highest (see `fenced`). lease.json tells
everyone who holds the run until when; it decides when a new token may be taken, not who may
write.

Source of the fencing token: Kleppmann, "How to do distributed locking", 2016.

What can slip between the look and the write (a process that was stopped right there) carries the
older token, and whoever reads checkpoints prefers those of the higher token (see `checkpoint`).
What it can delete in that instant is one checkpoint that it saw before; the one before that stays.
On a mounted Drive, a token taken on one machine is seen on another only when Drive has carried it
there, often half a minute later: two sessions that start within that time both believe to hold the
run, until the one with the lower or the equal token sees the other and stops.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import msgspec

from relaydet.errors import DamagedError, LeaseHeldError, LeaseLostError, RelayError, StoreError
from relaydet.json_file import decode_json
from relaydet.runtime.machine import Process, is_dead, this_process
from relaydet.storage.store import Store

LIFE_SECONDS = 180.0
"""How long a lease lives without being renewed."""
RELEASE_SECONDS = 10.0
"""How long giving back waits for a renewal that is under way."""
RENEWALS = 6
"""How often it is renewed in that time."""
LOOKS = 90
"""How often a session that waits for a lease to expire looks at it in that time."""
_given_back: set[str] = set()
"""Owners that this process was, so that a store that could not be told holds nobody up here."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run: lease.json. Times are ISO 8601 in UTC."""

    owner: str
    """Random name of the session."""
    token: int
    """Fencing token: higher for every holder."""
    host: str
    """Name of its machine."""
    runtime: str
    """Kind of machine: colab, kaggle, ..."""
    acquired: str = ""
    renewed: str = ""
    expires: str = ""
    machine: str = ""
    pid: int = 0
    born: str = ""

    def seconds_left(self) -> float:
        """Seconds until it expires, by this machine's clock; negative when it has."""
        try:
            left = datetime.fromisoformat(self.expires) - datetime.now(timezone.utc)
        except (ValueError, TypeError):  # no time, or one without its zone
            return -1.0
        return left.total_seconds()

    def is_over(self) -> bool:
        """Whether it has expired, was given back, or is of a process that is no more."""
        if self.seconds_left() <= 0 or self.owner in _given_back:
            return True
        return is_dead(Process(self.machine, self.pid, self.born))

    def __str__(self) -> str:
        return (
            f"{self.host} ({self.runtime}, process {self.pid}), since {_clock(self.acquired)},"
            f" renewed {_clock(self.renewed)}, until {_clock(self.expires)} UTC"
        )


def lease_name(run: str) -> str:
    """Name of a run's lease.json in the store."""
    return f"runs/{run}/lease.json"


def read_holder(store: Store, run: str) -> Holder | None:
    """Who holds or last held a run; None where nobody ever did, or nothing legible tells.

    Raises:
        StoreError: the store cannot be read.
    """
    told = _decode(store, lease_name(run))
    tokens = _tokens(store, run)
    if tokens and (told is None or told.token < tokens[-1]):
        # lease.json was not written yet, or by a session that had been stopped in mid-write. That
        # wrote over a later time, so the benefit of the doubt is the true holder's.
        holder = _decode(store, _token_name(run, tokens[-1])) or told
        later = max(told.expires if told else "", holder.expires if holder else "")
        return replace(holder, expires=later) if holder else None
    return told


def acquire(
    store: Store,
    run: str,
    runtime: str,
    take_over: bool = False,
    life: float = LIFE_SECONDS,
    say: Callable[[str], None] = print,
    above: int = 0,
    patient: bool = True,
) -> Lease:
    """Become the one writer of a run.

    Where somebody holds it, this waits for as long as it takes to see whether they still renew it:
    a session that died a minute ago needs no more than patience.

    Args:
        store: where the run is.
        run: its name.
        runtime: kind of machine that this is.
        take_over: fence off who holds it now instead of waiting.
        life: seconds that the lease lives without being renewed.
        say: takes the line that says what is waited for.
        above: the highest token known from elsewhere; lease files may have been cleared away.
        patient: wait where somebody holds it; else that is refused at once.

    Returns:
        The lease, renewed in the background until it is released.

    Raises:
        LeaseHeldError: somebody else holds it.
        StoreError: the store cannot be used.
    """
    while True:
        tokens = _tokens(store, run)  # first: whoever takes one after this look has it before us
        held = read_holder(store, run)
        if held and not held.is_over():
            if not take_over:
                if not patient:
                    raise _refusal(run, held)
                _wait_until_over(store, run, held, life, say)
                continue
            say(f"run {run!r}: taken over from {held}")
        token = 1 + max([*tokens[-1:], held.token if held else 0, above])
        lease = Lease(store, run, _new_holder(token, runtime, life), life)
        if store.create(_token_name(run, token), msgspec.json.encode(lease.holder)):
            lease.begin()
            return lease
        time.sleep(life / LOOKS)  # somebody was quicker: whoever it was will be seen now


def _refusal(run: str, held: Holder) -> LeaseHeldError:
    return LeaseHeldError(
        f"Run {run!r} is being trained by {held}; stop it there, or set TAKE_OVER"
        " (--take-over) to carry it on here: the other session then stops by itself."
    )


def _wait_until_over(
    store: Store, run: str, held: Holder, life: float, say: Callable[[str], None]
) -> None:
    """Return when a lease is over; raise as soon as its holder renews it."""
    refusal = _refusal(run, held)
    if held.seconds_left() > life:
        raise refusal
    say(f"run {run!r} is held by {held}; waiting to see whether that session is still alive ...")
    while not held.is_over():
        time.sleep(life / LOOKS)
        now = read_holder(store, run)
        if now is None or (now.owner, now.renewed) != (held.owner, held.renewed):
            if now is None or now.is_over():
                return
            raise refusal


class Lease:
    """The lease that this session holds; `acquire` makes it."""

    def __init__(self, store: Store, run: str, holder: Holder, life: float) -> None:
        self.holder = holder
        self.when_lost: Callable[[str], None] = lambda reason: None
        """Called once, in another thread, when somebody else has taken the run over."""
        self._store = store
        self._run = run
        self._life = life
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._lost = ""

    def begin(self) -> None:
        """Tell everyone, and keep renewing.

        Raises:
            LeaseLostError: somebody else was quicker.
            StoreError: the store went away; the token holds nobody up in this process.
        """
        try:
            self.renew()
        except RelayError:
            _given_back.add(self.holder.owner)
            raise
        self._thread.start()

    def confirm(self) -> None:
        """Look into the store whether the run still is this session's.

        Raises:
            LeaseLostError: it is somebody else's, now and for good.
            StoreError: the store cannot be read.
        """
        with self._lock:
            if not self._lost:
                self._lost = self._why_lost()
            if self._lost:
                raise LeaseLostError(self._lost)

    def renew(self) -> None:
        """Say that this session lives; raises as `confirm` does."""
        self.confirm()
        now = datetime.now(timezone.utc)
        until = now + timedelta(seconds=self._life)
        self.holder = replace(self.holder, renewed=_iso(now), expires=_iso(until))
        self._store.write(lease_name(self._run), msgspec.json.encode(self.holder))

    def release(self) -> None:
        """Give the run back: whoever comes next need not wait. Does nothing if it is lost."""
        self._ended.set()
        _given_back.add(self.holder.owner)
        if self._thread.is_alive():
            self._thread.join(RELEASE_SECONDS)
        try:
            self.confirm()
            self.holder = replace(self.holder, expires=_iso(datetime.now(timezone.utc)))
            self._store.write(lease_name(self._run), msgspec.json.encode(self.holder))
        except (LeaseLostError, StoreError):
            return  # it expires by itself

    def _keep(self) -> None:
        while not self._ended.wait(self._life / RENEWALS):
            try:
                self.renew()
            except LeaseLostError as error:
                self.when_lost(str(error))
                return
            except RelayError:
                continue  # the store is away; who publishes next says so, and looks again

    def _why_lost(self) -> str:
        """Why the run is not this session's any more; empty while it is."""
        mine = self.holder
        highest = max(_tokens(self._store, self._run), default=0)
        told = _decode(self._store, lease_name(self._run))
        other = told is not None and (
            told.token > mine.token or (told.token == mine.token and told.owner != mine.owner)
        )
        if not other and highest < mine.token:
            raise StoreError(
                f"{self._store.describe(f'runs/{self._run}')}: the lease of this session is not"
                " there; is it the same STORE as before, and mounted?"
            )
        if not other and highest == mine.token:
            return ""
        by = told if other else read_holder(self._store, self._run)
        return (
            f"run {self._run!r} was taken over by {by}; this session stops, and nothing that the"
            " other one needs was touched"
        )


def _new_holder(token: int, runtime: str, life: float) -> Holder:
    process, now = this_process(), datetime.now(timezone.utc)
    return Holder(
        owner=uuid.uuid4().hex[:12],
        token=token,
        host=process.machine.split("/")[0],
        runtime=runtime,
        acquired=_iso(now),
        renewed=_iso(now),
        expires=_iso(now + timedelta(seconds=life)),
        machine=process.machine,
        pid=process.pid,
        born=process.born,
    )


def _token_name(run: str, token: int) -> str:
    return f"runs/{run}/leases/{token:08d}.json"


def _tokens(store: Store, run: str) -> list[int]:
    """All tokens ever taken, in order."""
    stems = [
        name.rsplit("/", 1)[1].removesuffix(".json") for name in store.names(f"runs/{run}/leases")
    ]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _decode(store: Store, name: str) -> Holder | None:
    """A lease as a file tells it; None where there is none, or not a whole one."""
    if not store.exists(name):
        return None
    try:
        return decode_json(store.read(name), name, Holder)
    except DamagedError:
        return None


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")


def _clock(iso: str) -> str:
    """Date and time to the second, as people read them."""
    return iso[:19].replace("T", " ")
