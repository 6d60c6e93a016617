"""One writer per run: a lease with a fencing token.

Whoever trains a run holds its lease and renews it; a lease whose renewal stops is over. Each lease
has a token, one higher than the one before. The token is taken by creating the file
STORE/runs/RUN/leases/00000007.json, which only one can (see `Store.create`) and which nobody ever
overwrites or deletes: whoever holds the highest one holds the run, and before anything is written
to the run the holder looks whether it still is the highest (see `fenced`). lease.json tells
everyone who holds the run; it decides when a new token may be taken, not who may write.

Clocks of different machines disagree, by hours where one slept. So the times in lease.json are for
people, and a hint. A session that finds a lease which was not given back, and whose process is not
provably dead on this very machine, watches the lease on its own monotonic clock: one that changes
is renewed, and its holder alive; one that stays as it is for the whole watch is over.

The watch lasts for the time that the lease has left by its own times and this machine's clock, but
at least QUIET_RENEWALS of its renewals (75 s) and at most its life (180 s). Where the clocks agree,
that is never shorter than until the lease expires. Where they do not, two renewals would have had
to fail, and the time between two renewals is longer than what a mounted bucket or NFS may show an
old file for (60 s at most by default). If a live session is taken over even so, it loses its turn
and nothing else: the token fences it off.

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
"""How long giving back waits for the store, and for a renewal that is under way."""
RENEWALS = 6
"""How often it is renewed in that time."""
QUIET_RENEWALS = 2.5
"""How many renewals in a row must be missing, at least, for a lease to be over."""
MOST_LIFE_SECONDS = 900.0
"""No lease is watched for longer, whatever its file says."""
LOOKS = 90
"""How often a session that watches a lease looks at it in its life."""
AHEAD_SECONDS = 5.0
"""A renewal that lies further in the future shows that two clocks disagree."""
BEHIND_SECONDS = 60.0
"""As does one that is seen to arrive with a time that lies further back."""
_given_back: set[str] = set()
"""Owners that this process was, so that a store that could not be told holds nobody up here."""


@dataclass(frozen=True)
class Clock:
    """This machine's clocks."""

    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    """The wall clock, which may be wrong by hours and be set at any time."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some moment; only differences mean something."""
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


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

    released: bool = False
    """Whether it was given back."""

    def is_free(self) -> bool:
        """Whether it certainly is over: given back, or of a process that is no more."""
        if self.released or self.owner in _given_back:
            return True
        return is_dead(Process(self.machine, self.pid, self.born))

    def life(self, otherwise: float) -> float:
        """Seconds that it lives without being renewed, by the one clock that its times are of."""
        renewed, expires = _when(self.renewed), _when(self.expires)
        life = (expires - renewed).total_seconds() if renewed and expires else 0.0
        return min(life, MOST_LIFE_SECONDS) if life > 0 else otherwise

    def age(self, now: datetime) -> float | None:
        """Seconds since it was renewed, if the clocks agree; None where it tells no time."""
        renewed = _when(self.renewed)
        return None if renewed is None else (now - renewed).total_seconds()

    def doubt(self, clock: Clock = CLOCK) -> str:
        """Why the times in it do not tell that its holder is alive; empty where they do.

        A look at the wall clocks alone: for a table that cannot wait, not for a decision.
        """
        age = self.age(clock.now())
        if age is None or age > self.life(LIFE_SECONDS):
            when = f"{_clock(self.renewed)} UTC" if self.renewed else "it was taken"
            return f"not renewed since {when} by the clock of {self.host}"
        return self.ahead(clock)

    def ahead(self, clock: Clock = CLOCK) -> str:
        """What to say of a renewal that lies in this machine's future; empty where it does not."""
        age = self.age(clock.now())
        if age is None or age >= -AHEAD_SECONDS:
            return ""
        return _disagreement(self.host, -age, "ahead of")

    def __str__(self) -> str:
        return (
            f"{self.host} ({self.runtime}, process {self.pid}), since {_clock(self.acquired)},"
            f" renewed {_clock(self.renewed)}, until {_clock(self.expires)} UTC by its clock"
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
        # lease.json was not written yet, or by a session that had been stopped in mid-write.
        return _decode(store, _token_name(run, tokens[-1])) or told
    return told


@dataclass(frozen=True)
class _Sighting:
    """A lease as this process first saw it."""

    holder: Holder
    since: float
    """Of the monotonic clock, after it was read."""
    watch: float
    """Seconds for which it must stay as it is to be over."""


_seen: dict[tuple[str, str], _Sighting] = {}
"""By store and run, the lease that is watched: one that was seen to be over stays so."""


def look(store: Store, run: str, life: float = LIFE_SECONDS, clock: Clock = CLOCK) -> str:
    """Return whether somebody holds a run, without waiting.

    Whoever asks again and again, as a fleet does between two runs, gets to know in that way
    whether a lease is renewed.

    Returns:
        "free" where nobody holds it, "silent" where a lease was not given back and not renewed
        for as long as `acquire` watches one, "held" otherwise.

    Raises:
        StoreError: the store cannot be read.
    """
    asked = clock.monotonic()
    held = read_holder(store, run)
    if held is None or held.is_free():
        return "free"
    return "held" if _watch_left(store, run, held, asked, life, clock) > 0 else "silent"


def _watch_left(
    store: Store, run: str, held: Holder, asked: float, life: float, clock: Clock
) -> float:
    """Seconds for which a lease must still be seen unchanged to be over.

    Args:
        store: where the run is.
        run: its name.
        held: the lease as it was read just now.
        asked: the monotonic clock before it was read.
        life: seconds that a lease lives whose file does not tell.
        clock: this machine's.
    """
    key = (store.place(""), run)
    seen = _seen.get(key)
    if seen is None or seen.holder != held:
        seen = _Sighting(held, clock.monotonic(), _watch_seconds(held, life, clock))
        _seen[key] = seen
        return seen.watch
    return seen.watch - (asked - seen.since)


def _watch_seconds(held: Holder, life: float, clock: Clock) -> float:
    """How long a lease that is seen for the first time is watched; see the top of this module."""
    life, age = held.life(life), held.age(clock.now())
    left = life if age is None else life - age
    return min(life, max(left, QUIET_RENEWALS * life / RENEWALS))


def acquire(
    store: Store,
    run: str,
    runtime: str,
    take_over: bool = False,
    life: float = LIFE_SECONDS,
    say: Callable[[str], None] = print,
    above: int = 0,
    patient: bool = True,
    stop: Callable[[], object] = lambda: False,
    clock: Clock = CLOCK,
) -> Lease:
    """Become the one writer of a run.

    Where a lease is there that was not given back, this watches for as long as it takes to see
    whether somebody still renews it.

    Args:
        store: where the run is.
        run: its name.
        runtime: kind of machine that this is.
        take_over: fence off who holds it now instead of waiting.
        life: seconds that the lease lives without being renewed.
        say: takes the line that says what is waited for.
        above: the highest token known from elsewhere; lease files may have been cleared away.
        patient: watch where somebody may hold it; else that is refused at once.
        stop: true once the session should stop: then nothing is waited for any more.
        clock: this machine's.

    Returns:
        The lease, renewed in the background until it is released.

    Raises:
        LeaseHeldError: somebody else holds it, or may, when a stop was asked for.
        StoreError: the store cannot be used.
    """
    while True:
        asked = clock.monotonic()
        tokens = _tokens(store, run)  # first: whoever takes one after this look has it before us
        held = read_holder(store, run)
        if held and not held.is_free():
            left = _watch_left(store, run, held, asked, life, clock)
            if take_over:
                say(f"run {run!r}: taken over from {held}")
            elif left > 0:
                if not patient:
                    raise _refusal(run, held)
                _watch(store, run, held, left, life, say, stop, clock)
                continue
        token = 1 + max([*tokens[-1:], held.token if held else 0, above])
        lease = Lease(store, run, _new_holder(token, runtime, life, clock), life, clock)
        if store.create(_token_name(run, token), msgspec.json.encode(lease.holder)):
            lease.begin()
            return lease
        clock.sleep(life / LOOKS)  # somebody was quicker: whoever it was will be seen now


def _refusal(run: str, held: Holder) -> LeaseHeldError:
    return LeaseHeldError(
        f"Run {run!r} is being trained by {held}; stop it there, or set TAKE_OVER"
        " (--take-over) to carry it on here: the other session then stops by itself."
    )


def _watch(
    store: Store,
    run: str,
    held: Holder,
    left: float,
    life: float,
    say: Callable[[str], None],
    stop: Callable[[], object],
    clock: Clock,
) -> None:
    """Return when a lease is over; raise as soon as its holder renews it, or at a stop."""
    if told := held.ahead(clock):
        say(told)
    say(
        f"run {run!r} is held by {held}, which has not given it back; watching for up to"
        f" {left:.0f} s whether that session still renews it ..."
    )
    while left > 0:
        clock.sleep(held.life(life) / LOOKS)
        if stop():
            raise LeaseHeldError(
                f"Run {run!r} was not taken: a stop was asked for before it was clear whether"
                f" {held} still trains it; run again to go on."
            )
        asked = clock.monotonic()
        now = read_holder(store, run)
        if now is None or now.is_free():
            return
        if now != held:
            if (note := _disagreement_of(held, now, clock)) and not told:
                say(note)
            raise _refusal(run, now)
        left = _watch_left(store, run, held, asked, life, clock)


def _disagreement_of(held: Holder, now: Holder, clock: Clock) -> str:
    """What a renewal that has just arrived tells of the clocks; empty where they agree."""
    if note := now.ahead(clock):
        return note
    age, before = now.age(clock.now()), held.age(clock.now())
    if now.owner == held.owner and age is not None and before is not None and age > before:
        return f"the clock of {now.host} was set back by {_span(age - before)}; it decides nothing"
    return _disagreement(now.host, age, "behind") if age and age > BEHIND_SECONDS else ""


def _disagreement(host: str, seconds: float, how: str) -> str:
    here = this_process().machine.split("/")[0]
    return (
        f"clocks disagree: that of {host} is {_span(seconds)} {how} that of this machine ({here});"
        " they decide nothing here, but set the one that is wrong"
    )


def _span(seconds: float) -> str:
    """As hours, minutes and seconds."""
    return f"{timedelta(seconds=round(seconds))} h"


class Lease:
    """The lease that this session holds; `acquire` makes it."""

    def __init__(
        self, store: Store, run: str, holder: Holder, life: float, clock: Clock = CLOCK
    ) -> None:
        self.holder = holder
        self.when_lost: Callable[[str], None] = lambda reason: None
        """Called once, in another thread, when somebody else has taken the run over."""
        self._store = store
        self._run = run
        self._life = life
        self._clock = clock
        self._told_at = clock.monotonic()
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

        A process that slept for longer than the lease lives says that it is alive before it writes
        anything: whoever watches the lease should see that first.

        Raises:
            LeaseLostError: it is somebody else's, now and for good.
            StoreError: the store cannot be read.
        """
        self._look()
        if self._clock.monotonic() - self._told_at > self._life and not self._ended.is_set():
            self._tell()

    def renew(self) -> None:
        """Say that this session lives; raises as `confirm` does."""
        self._look()
        if not self._ended.is_set():
            self._tell()

    def release(self) -> None:
        """Give the run back: whoever comes next need not wait. Does nothing if it is lost.

        A store that does not answer is waited for RELEASE_SECONDS: the lease then runs out.
        """
        self._ended.set()
        _given_back.add(self.holder.owner)
        giving = threading.Thread(target=self._give_back, name="release", daemon=True)
        giving.start()
        giving.join(RELEASE_SECONDS)

    def _give_back(self) -> None:
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._look()
            self.holder = replace(self.holder, expires=_iso(self._clock.now()), released=True)
            self._store.write(lease_name(self._run), msgspec.json.encode(self.holder))
        except RelayError:
            return  # whoever comes next sees that nobody renews it

    def _look(self) -> None:
        with self._lock:
            if not self._lost:
                self._lost = self._why_lost()
            if self._lost:
                raise LeaseLostError(self._lost)

    def _tell(self) -> None:
        at, now = self._clock.monotonic(), self._clock.now()
        until = now + timedelta(seconds=self._life)
        self.holder = replace(self.holder, renewed=_iso(now), expires=_iso(until))
        self._store.write(lease_name(self._run), msgspec.json.encode(self.holder))
        self._told_at = at

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


def _new_holder(token: int, runtime: str, life: float, clock: Clock) -> Holder:
    process, now = this_process(), clock.now()
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


def _when(iso: str) -> datetime | None:
    """A moment that a lease tells; None where it tells none, or one without its zone."""
    try:
        when = datetime.fromisoformat(iso)
    except (ValueError, TypeError):
        return None
    return when if when.tzinfo else None


def _clock(iso: str) -> str:
    """Date and time to the second, as people read them."""
    return iso[:19].replace("T", " ")
