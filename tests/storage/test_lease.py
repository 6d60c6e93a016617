"""One writer per run: who gets a lease, who keeps it, and who finds out that it is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from gcs_server import connect, serve_line

from relaydet.errors import LeaseHeldError, LeaseLostError, RelayError, StoreError
from relaydet.runtime.machine import this_process
from relaydet.storage import gcs
from relaydet.storage import lease as lease_module
from relaydet.storage.fenced import Fenced
from relaydet.storage.gcs import GcsStore
from relaydet.storage.lease import Clock, Holder, acquire, lease_name, look, read_holder
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store

LONG, SHORT = 60.0, 0.8
NAME = "runs/r/lease.json"
HOLD = """
import sys
from relaydet.storage.lease import acquire
from relaydet.storage.store import open_store
lease = acquire(open_store(sys.argv[1]), "r", "plain", life=float(sys.argv[2]))
lease.when_lost = lambda reason: print("lost:", reason, flush=True)
print("holds", lease.holder.token, flush=True)
sys.stdin.read()
lease.release()
print("released", flush=True)
"""


@pytest.fixture
def store(any_store):
    return any_store


@pytest.fixture
def hold():
    """Let another process hold the lease; as many as a test wants."""
    running = []

    def start(store, life: float) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, store.location, str(life)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, **pipes))
        line = running[-1].stdout.readline()
        while line and not line.startswith("holds"):
            line = running[-1].stdout.readline()
        assert line, "it did not get the lease"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait(timeout=10)
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def take(store):
    """Acquire the lease of the run r; it is released when the test ends."""
    leases = []

    def acquired(life: float = LONG, store=store, say=lambda line: None, **options):
        leases.append(acquire(store, "r", "plain", life=life, say=say, **options))
        return leases[-1]

    yield acquired
    for lease in leases:
        lease.release()


def wait_until(met: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def told(store) -> dict:
    return json.loads(store.read(NAME))


def seconds_until(iso: str) -> float:
    return (datetime.fromisoformat(iso) - datetime.now(timezone.utc)).total_seconds()


def a_holder(seconds: float, **changes) -> bytes:
    """A lease.json as a session on another machine wrote it, which lives as long as that."""
    iso = [(datetime.now(timezone.utc) + timedelta(seconds=s)).isoformat() for s in (-9, seconds)]
    holder = {"owner": "other", "token": 1, "host": "far", "runtime": "kaggle", "pid": 7}
    times = {"acquired": iso[0], "renewed": iso[0], "expires": iso[1]}
    return json.dumps({**holder, **times, "machine": "far/1/2", "born": "3", **changes}).encode()


class FakeClock(Clock):
    """Clocks that move while somebody sleeps, the wall clock an offset away from true time."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.true = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)
        self.passed = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []
        now = lambda: self.true + timedelta(seconds=self.passed + ahead)  # noqa: E731
        super().__init__(now, lambda: 1000.0 + self.passed, self.pass_by)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and what happens meanwhile happen."""
        assert seconds > 0
        self.passed += seconds
        while self.events and self.events[0][0] <= self.passed:
            self.events.pop(0)[1]()

    def at(self, seconds: float, event: Callable[[], object]) -> None:
        self.events.append((seconds, event))
        self.events.sort(key=lambda e: e[0])

    def lease(self, age: float, life: float = 180.0, ahead: float = 0.0, **changes) -> bytes:
        """A lease.json that was renewed so long ago, on a machine whose clock is that far ahead."""
        renewed = self.true + timedelta(seconds=self.passed + ahead - age)
        times = {"renewed": renewed.isoformat()}
        times["expires"] = (renewed + timedelta(seconds=life)).isoformat()
        return a_holder(0, **{**times, **changes})


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(lease_module, "_seen", {})


HOUR = 3600.0


@pytest.mark.parametrize(
    ("theirs", "mine", "age", "watched"),
    [
        # Where the clocks agree: until it expires, at least two and a half renewals.
        pytest.param(0, 0, 0, 180, id="renewed just now"),
        pytest.param(0, 0, 60, 120, id="a minute ago"),
        pytest.param(0, 0, 104, 76, id="until it expires"),
        pytest.param(0, 0, 106, 75, id="at least that long"),
        pytest.param(0, 0, 5 * HOUR, 75, id="hours ago"),
        # Where they do not: never less, and never more than the lease's life.
        pytest.param(HOUR, 0, 0, 180, id="its clock is ahead"),
        pytest.param(7 * HOUR, 0, 5 * HOUR, 180, id="its clock is ahead, and it died"),
        pytest.param(-HOUR, 0, 0, 75, id="its clock is behind"),
        pytest.param(0, HOUR, 0, 75, id="mine is ahead"),
        pytest.param(0, -HOUR, 0, 180, id="mine is behind"),
        pytest.param(0, -HOUR, 5 * HOUR, 75, id="mine is behind, and it died"),
    ],
)
def test_a_lease_is_over_when_it_was_not_renewed_for_so_long_by_my_own_clock(
    tmp_path, theirs, mine, age, watched
):
    store, clock, said = LocalStore(tmp_path), FakeClock(mine), []
    store.write(NAME, clock.lease(age, ahead=theirs))
    lease = acquire(store, "r", "plain", say=said.append, clock=clock)
    lease.release()
    assert watched <= clock.passed < watched + 2.1, "it is looked at every two seconds"
    assert (lease.holder.token, clock.events) == (2, [])
    assert f"for up to {watched} s whether" in said[-1]
    assert "far (kaggle, process 7)" in said[-1]
    assert len(said) == (2 if theirs - mine - age > 5 else 1)
    if len(said) == 2:
        assert "clocks disagree: that of far is" in said[0]


@pytest.mark.parametrize("renewed_after", [1, 29, 30, 60, 74])
@pytest.mark.parametrize(
    ("theirs", "mine", "told"),
    [
        pytest.param(0, 0, "", id="clocks agree"),
        pytest.param(HOUR, 0, "far is 1:00:00 h ahead of", id="its clock is ahead"),
        pytest.param(-HOUR, 0, "far is 1:00:0. h behind", id="its clock is behind"),
        pytest.param(0, 7 * HOUR, "far is 7:00:0. h behind", id="mine is ahead"),
        pytest.param(0, -600, "far is 0:10:00 h ahead of", id="mine is behind"),
    ],
)
def test_whoever_renews_is_alive_whatever_the_clocks_say(
    tmp_path, renewed_after, theirs, mine, told
):
    store, clock, said = LocalStore(tmp_path), FakeClock(mine), []
    store.write(NAME, clock.lease(0, ahead=theirs))
    clock.at(renewed_after, lambda: store.write(NAME, clock.lease(0, ahead=theirs)))
    with pytest.raises(LeaseHeldError, match=r"'r' is being trained by far .*TAKE_OVER"):
        acquire(store, "r", "plain", say=said.append, clock=clock)
    assert renewed_after <= clock.passed < renewed_after + 2.1
    assert store.names("runs/r/leases") == []
    notes = [line for line in said if "clocks disagree" in line]
    assert bool(notes) == bool(told)
    assert all(re.search(told, line) for line in notes)


def test_a_clock_that_is_set_back_between_two_renewals_is_named(tmp_path):
    store, clock, said = LocalStore(tmp_path), FakeClock(), []
    store.write(NAME, clock.lease(0))
    clock.at(10, lambda: store.write(NAME, clock.lease(0, ahead=-50)))
    with pytest.raises(LeaseHeldError):
        acquire(store, "r", "plain", say=said.append, clock=clock)
    assert said[-1] == "the clock of far was set back by 0:00:40 h; it decides nothing"


@pytest.mark.parametrize(
    ("age", "notes"), [(0, 0), (-4.9, 0), (-5.1, 1), (59, 0), (61, 1)], ids=str
)
def test_a_few_seconds_between_two_clocks_are_not_worth_a_word(tmp_path, age, notes):
    store, clock, said = LocalStore(tmp_path), FakeClock(), []
    store.write(NAME, clock.lease(100))
    clock.at(1, lambda: store.write(NAME, clock.lease(age)))
    with pytest.raises(LeaseHeldError):
        acquire(store, "r", "plain", say=said.append, clock=clock)
    assert sum("clocks disagree" in line for line in said) == notes


@pytest.mark.parametrize(
    ("times", "watched"),
    [
        pytest.param({"expires": ""}, 90, id="no expiry"),
        pytest.param({"renewed": ""}, 90, id="no renewal"),
        pytest.param({"renewed": "soon", "expires": "later"}, 90, id="not times"),
        pytest.param({"expires": "2020-01-01T00:00:00"}, 90, id="without its zone"),
        pytest.param({"expires": "2020-01-01T00:00:00+00:00"}, 90, id="over before it began"),
        pytest.param({"expires": "9999-12-31T00:00:00+00:00"}, 900, id="for ever"),
        pytest.param({"renewed": "0001-01-01T00:00:00+00:00"}, 375, id="since ever"),
    ],
)
def test_times_that_are_none_still_end(tmp_path, times, watched):
    """The life is then that of this session's own lease, or the most that is believed."""
    store, clock = LocalStore(tmp_path), FakeClock()
    store.write(NAME, clock.lease(0, **times))
    lease = acquire(store, "r", "plain", life=90, say=str, clock=clock)
    lease.release()
    assert watched <= clock.passed < watched + 10.1
    assert lease.holder.token == 2


def test_a_lease_that_changes_hands_while_it_is_watched(tmp_path):
    for change, outcome in [
        (lambda clock: clock.lease(0, owner="third", token=2), "refused"),
        (lambda clock: clock.lease(0, released=True), "taken"),
        (lambda clock: None, "taken"),
    ]:
        store, clock = LocalStore(tmp_path / str(id(change))), FakeClock()
        store.write(NAME, clock.lease(0))
        changed = change(clock)
        clock.at(10, lambda s=store, c=changed: s.write(NAME, c) if c else s.delete(NAME))
        if outcome == "refused":
            with pytest.raises(LeaseHeldError):
                acquire(store, "r", "plain", say=str, clock=clock)
        else:
            acquire(store, "r", "plain", say=str, clock=clock).release()
        assert clock.passed < 12.1


def test_a_stop_ends_the_watch_within_seconds(tmp_path):
    store, clock, asked = LocalStore(tmp_path), FakeClock(), []
    store.write(NAME, clock.lease(0))
    clock.at(20, lambda: asked.append(1))
    with pytest.raises(LeaseHeldError, match=r"'r' was not taken: a stop was asked for .* far "):
        acquire(store, "r", "plain", say=str, clock=clock, stop=lambda: asked)
    assert 20 <= clock.passed < 22.1
    assert store.names("runs/r/leases") == []


def test_taking_over_waits_for_nothing(tmp_path):
    store, clock, said = LocalStore(tmp_path), FakeClock(), []
    store.write(NAME, clock.lease(0))
    acquire(store, "r", "plain", True, say=said.append, clock=clock).release()
    assert clock.passed == 0
    assert said[0].startswith("run 'r': taken over from far")


def test_looks_from_time_to_time_tell_as_much_as_a_watch(tmp_path):
    """A fleet looks between two runs; what it saw counts for who then takes the run."""
    store, clock = LocalStore(tmp_path), FakeClock()
    assert look(store, "r", clock=clock) == "free"
    store.write(NAME, clock.lease(5 * HOUR))
    asked = []
    for _ in range(4):
        asked.append(look(store, "r", clock=clock))
        clock.pass_by(30)
    assert asked == ["held", "held", "held", "silent"]
    before = clock.passed
    lease = acquire(store, "r", "plain", patient=False, clock=clock)
    assert (lease.holder.token, clock.passed) == (2, before)
    lease.release()
    assert look(store, "r", clock=clock) == "free"
    store.write(NAME, clock.lease(0, token=3))
    assert look(store, "r", clock=clock) == "held"
    for _ in range(9):
        clock.pass_by(70)
        store.write(NAME, clock.lease(0, token=3))
        assert look(store, "r", clock=clock) == "held", "it was renewed"
    with pytest.raises(LeaseHeldError):
        acquire(store, "r", "plain", patient=False, clock=clock)


def test_a_process_that_slept_says_that_it_lives_before_it_writes(tmp_path):
    store, clock = LocalStore(tmp_path), FakeClock()
    lease = acquire(store, "r", "plain", clock=clock)
    before = store.read(NAME)
    clock.pass_by(180)
    lease.confirm()
    assert store.read(NAME) == before, "it has not slept for longer than the lease lives"
    clock.pass_by(1)
    lease.confirm()
    assert (
        told(store)["renewed"] == lease.holder.renewed == clock.now().isoformat("T", "milliseconds")
    )
    after = store.read(NAME)
    clock.pass_by(180)
    lease.confirm()
    assert store.read(NAME) == after
    lease.release()
    clock.pass_by(HOUR)
    lease.confirm()
    assert told(store)["released"], "a thread that is late does not take back the giving back"
    lease.renew()
    assert told(store)["released"]


@pytest.mark.parametrize(
    ("age", "ahead", "doubt"),
    [
        (0, 0, ""),
        (180, 0, ""),
        (181, 0, "not renewed since 2026-12-01 11:56:59 UTC by the clock of far"),
        (0, 4, ""),
        (0, HOUR, "clocks disagree: that of far is 1:00:00 h ahead of that of this machine"),
        (0, -HOUR, "not renewed since 2026-12-01 11:00:00 UTC by the clock of far"),
    ],
)
def test_what_a_table_says_of_a_lease(age, ahead, doubt):
    clock = FakeClock()
    holder = msgspec.json.decode(clock.lease(age, ahead=ahead), type=Holder)
    assert holder.doubt(clock).startswith(doubt)
    assert bool(holder.doubt(clock)) == bool(doubt)


def test_lease_json_tells_who_holds_the_run_until_when(store, take):
    assert read_holder(store, "r") is None
    lease = take()
    holder = told(store)
    process = this_process()
    assert holder["owner"] == lease.holder.owner
    assert (holder["token"], holder["runtime"], holder["pid"]) == (1, "plain", process.pid)
    assert (holder["host"], holder["machine"]) == (process.machine.split("/")[0], process.machine)
    assert -5 < seconds_until(holder["renewed"]) <= 0
    assert LONG - 5 < seconds_until(holder["expires"]) <= LONG
    assert lease_name("r") == NAME
    assert read_holder(store, "r") == lease.holder


def test_every_holder_has_a_higher_token(store, take):
    for token in (1, 2, 3):
        lease = take()
        assert lease.holder.token == told(store)["token"] == token
        lease.release()
    assert store.names("runs/r/leases") == [f"runs/r/leases/0000000{n}.json" for n in (1, 2, 3)]
    owners = {json.loads(store.read(name))["owner"] for name in store.names("runs/r/leases")}
    assert len(owners) == 3


def test_runs_have_leases_of_their_own(store, take):
    take()
    other = acquire(store, "other", "plain", life=LONG)
    assert other.holder.token == 1
    other.release()


def test_a_lease_is_renewed_for_as_long_as_it_is_held(store, take):
    take(SHORT)
    first = told(store)
    time.sleep(1.3 * SHORT)
    assert seconds_until(told(store)["expires"]) > 0
    assert told(store)["renewed"] > first["renewed"]
    assert told(store)["acquired"] == first["acquired"]


def test_whoever_is_alive_keeps_the_run_and_is_named(store, take):
    first = take(SHORT)
    said = []
    with pytest.raises(RelayError) as refused:
        take(SHORT, say=said.append)
    message = str(refused.value)
    assert not isinstance(refused.value, (LeaseLostError, StoreError))
    assert message.startswith(f"Run 'r' is being trained by {first.holder.host} (plain, process")
    acquired = first.holder.acquired[:19].replace("T", " ")
    assert f"since {acquired}, renewed 20" in message
    assert ", until 20" in message
    assert "TAKE_OVER" in message
    assert len(said) == 1
    assert "watching for up to 1 s" in said[0]
    first.confirm()
    assert [name[-6] for name in store.names("runs/r/leases")] == ["1"], "no token was taken"


def test_a_released_lease_is_free_at_once(store, take):
    take().release()
    assert told(store)["released"] is True
    assert seconds_until(told(store)["expires"]) <= 0
    said = []
    assert take(say=said.append).holder.token == 2
    assert said == []


def test_giving_back_does_not_wait_for_a_store_that_hangs(tmp_path, monkeypatch):
    store, answers = LocalStore(tmp_path), threading.Event()
    lease = acquire(store, "r", "plain", clock=FakeClock())
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", 0.1)
    monkeypatch.setattr(store, "names", lambda prefix: answers.wait(20) and [])
    started = time.monotonic()
    lease.release()
    assert time.monotonic() - started < 10
    answers.set()


def test_a_lease_may_be_released_twice(store, take):
    lease = take()
    lease.release()
    again = take()
    lease.release()
    again.confirm()
    assert told(store)["owner"] == again.holder.owner


def test_a_lease_of_another_machine_is_free_once_it_expires(store, take):
    store.write(NAME, a_holder(seconds=-8.2))  # it was renewed 9 s ago, and lives for 0.8 s
    said, start = [], time.monotonic()
    assert take(1.0, say=said.append).holder.token == 2
    assert 0.3 < time.monotonic() - start < 5
    assert [line.count("far (kaggle") for line in said] == [1]


@pytest.mark.parametrize("buried", [True, False], ids=["gone", "a zombie"])
def test_a_lease_of_a_dead_process_of_this_machine_is_free_at_once(store, take, hold, buried):
    process = hold(store, LONG)
    process.kill()
    if buried:
        process.wait(timeout=10)
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert seconds_until(told(store)["expires"]) > LONG / 2
    said = []
    assert take(say=said.append).holder.token == 2
    assert said == []


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda store: store.write("runs/r/x", b"2"), id="write"),
        pytest.param(lambda store: store.create("runs/r/new", b"2"), id="create"),
        pytest.param(lambda store: store.append("runs/r/x", b"1", b"2"), id="append"),
        pytest.param(lambda store: store.delete("runs/r/x"), id="delete"),
        pytest.param(lambda store: store.folder("runs/r/folder").__enter__(), id="folder"),
    ],
)
def test_whoever_is_taken_over_cannot_write_any_more(store, take, act):
    first = take()
    fenced = Fenced(store, first)
    fenced.write("runs/r/x", b"1")
    said = []
    second = take(take_over=True, say=said.append)
    assert said == [f"run 'r': taken over from {first.holder}"]
    with pytest.raises(LeaseLostError, match=r"run 'r' was taken over by .*this session stops"):
        act(fenced)
    assert store.names("runs/r") == [NAME, "runs/r/x"]
    assert fenced.read("runs/r/x") == store.read("runs/r/x") == b"1"
    act(Fenced(store, second))


def test_whoever_is_taken_over_is_told_once_and_leaves_lease_json_alone(store, take):
    first, reasons = take(SHORT), []
    first.when_lost = reasons.append
    second = take(take_over=True)
    wait_until(lambda: reasons)
    with pytest.raises(LeaseLostError):
        first.confirm()
    time.sleep(SHORT / 2)  # three renewals
    assert len(reasons) == 1
    assert str(second.holder)[:20] in reasons[0]
    before = store.read(NAME)
    first.release()
    assert store.read(NAME) == before
    assert told(store)["owner"] == second.holder.owner
    second.confirm()


def test_a_lost_lease_stays_lost(store, take):
    first = take()
    take(take_over=True)
    with pytest.raises(LeaseLostError):
        first.confirm()
    store.delete("runs/r")
    with pytest.raises(LeaseLostError):
        first.confirm()


def test_a_fenced_store_is_read_like_the_store_itself(store, take, tmp_path):
    (tmp_path / "original").write_bytes(b"12")
    fenced = Fenced(store, take())
    fenced.write("a/b/x", b"1")
    assert fenced.create("a/b/x", b"2") is False
    with fenced.folder("a/c") as put:
        put("y", b"1")
    for ask in (
        lambda s: s.location,
        lambda s: s.read("a/b/x"),
        lambda s: s.differs("a/b/x", tmp_path / "original"),
        lambda s: (s.names("a/b"), s.folders("a"), s.names("a/c")),
        lambda s: (s.exists("a/b/x"), s.exists("a/b")),
        lambda s: (s.size("a/b/x"), s.size("a/b")),
        lambda s: (s.describe("a/b/x"), s.place("a/b/x")),
    ):
        assert ask(fenced) == ask(store)
    fenced.delete("a/b/x")
    assert not store.exists("a/b/x")


def test_a_lease_json_that_an_older_holder_wrote_late_is_not_believed(store, take):
    first = take()
    late = store.read(NAME)
    second = take(take_over=True)
    store.write(NAME, late)  # it was stopped between its look and its write
    assert read_holder(store, "r").owner == second.holder.owner
    second.confirm()
    with pytest.raises(LeaseLostError):
        first.confirm()
    with pytest.raises(RelayError, match="is being trained by"):
        take(patient=False)
    second.renew()
    assert told(store)["owner"] == second.holder.owner


def test_of_two_with_one_token_the_one_in_lease_json_goes_on(store, take):
    """On a mounted Drive, two machines may both have created the same token file."""
    lease = take()
    store.write(NAME, a_holder(30, token=1))
    with pytest.raises(LeaseLostError, match=r"taken over by far \(kaggle, process 7\)"):
        lease.confirm()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"owner": "a", "tok', id="cut"),
        pytest.param(b'{"owner": "\xff\xfe", "token": 1}', id="not text"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b'{"owner": "a"}', id="without a token"),
        pytest.param(b'{"owner": "a", "token": "x"}', id="a token that is none"),
        pytest.param(None, id="missing"),
    ],
)
def test_a_damaged_lease_json_is_worked_around(store, take, damage):
    def spoil() -> None:
        store.delete(NAME) if damage is None else store.write(NAME, damage)

    first = take()
    spoil()
    first.confirm()
    assert read_holder(store, "r").owner == first.holder.owner
    with pytest.raises(RelayError, match="is being trained by"):
        take(patient=False)
    first.renew()
    first.release()
    spoil()
    second = take(take_over=True)
    assert second.holder.token == told(store)["token"] == 2


@pytest.mark.parametrize("content", [b"", b'{"owner'], ids=["empty", "cut"])
def test_a_token_that_was_taken_and_not_written_is_not_taken_again(store, take, content):
    """A kill may leave that where a mount has no hard links."""
    take().release()
    store.write("runs/r/leases/00000002.json", content)
    store.write("runs/r/leases/readme.txt", b"not a token")
    assert take().holder.token == 3
    assert store.read("runs/r/leases/00000002.json") == content


def race(threads: int, act: Callable[[int], object]) -> list:
    ready = threading.Barrier(threads)

    def begin(number: int):
        ready.wait()
        return act(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def won(results: list) -> list:
    return [result for result in results if not isinstance(result, RelayError)]


def try_to_take(take, **options):
    try:
        return take(**options)
    except RelayError as error:
        return error


def trouble_of(lease) -> RelayError | None:
    return try_to_take(lease.confirm)


@pytest.mark.parametrize("before", ["nobody", "somebody whose lease is over"])
def test_one_of_many_that_start_at_once_gets_the_run(store, take, before):
    if before != "nobody":
        store.write(NAME, a_holder(-1, released=True))
    results = race(16, lambda number: try_to_take(take, life=SHORT))
    (lease,) = won(results)
    lease.confirm()
    assert told(store)["owner"] == lease.holder.owner
    assert len(store.names("runs/r/leases")) == 1, "the others did not even take a token"


def test_without_hard_links_no_two_hold_the_run(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    store = LocalStore(tmp_path)
    options = {"store": store, "run": "r", "runtime": "plain", "life": SHORT, "say": str}
    leases = won(race(16, lambda _: try_to_take(acquire, **options)))
    assert [trouble_of(lease) for lease in leases].count(None) == 1
    assert len({lease.holder.token for lease in leases}) == len(leases)
    for lease in leases:
        lease.release()


RELAY = """
import os, sys, time
from relaydet.errors import RelayError
from relaydet.storage.lease import acquire
from relaydet.storage.store import open_store
store, log = open_store(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
print("ready", flush=True)
sys.stdin.readline()
turns = 0
while turns < 3:
    try:
        lease = acquire(store, "r", "plain", life=5.0, say=str)
    except RelayError:
        time.sleep(0.01)
        continue
    os.write(log, b"begin %d\\n" % lease.holder.token)
    time.sleep(0.02)
    lease.confirm()
    os.write(log, b"end %d\\n" % lease.holder.token)
    lease.release()
    turns += 1
"""


def test_processes_that_pass_a_run_on_never_hold_it_together(tmp_path):
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", RELAY, str(tmp_path / "store"), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racing = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for process in racing:
        process.stdout.readline()
    for process in racing:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in racing:
        process.communicate(timeout=60)
    assert [process.returncode for process in racing] == [0] * 6
    lines = log.read_text().splitlines()
    tokens = [int(line.split()[1]) for line in lines[::2]]
    assert lines == [f"{what} {token}" for token in tokens for what in ("begin", "end")]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 18


def test_a_stopped_process_finds_out_when_it_goes_on(store, take, hold):
    process = hold(store, SHORT)
    process.send_signal(signal.SIGSTOP)
    said = []
    second = take(SHORT, say=said.append)
    assert second.holder.token == 2
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline().startswith("lost: run 'r' was taken over by")
    second.confirm()
    owner = told(store)["owner"]
    process.stdin.close()
    assert process.stdout.readline() == "released\n"
    assert process.wait(timeout=10) == 0
    assert told(store)["owner"] == owner == second.holder.owner


def test_a_stopped_process_whose_run_nobody_wanted_goes_on(store, take, hold):
    process = hold(store, SHORT)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.2 * SHORT)
    assert seconds_until(told(store)["expires"]) < 0
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: seconds_until(told(store)["expires"]) > 0)
    process.stdin.close()
    assert process.stdout.read() == "released\n"


@dataclass
class Shaky:
    """A store that can go away, and the way to what is in it meanwhile."""

    store: Store
    go: Callable[[], object]
    come: Callable[[], object]
    aside: Callable[[], Store]


@pytest.fixture(params=["folder", "bucket"])
def shaky(request, tmp_path, monkeypatch):
    monkeypatch.setattr(gcs, "TRY_SECONDS", 0.1)
    if request.param == "folder":
        here, away = tmp_path / "store", tmp_path / "away"
        yield Shaky(
            LocalStore(here),
            lambda: here.rename(away),
            lambda: away.rename(here),
            lambda: LocalStore(away),
        )
        return
    location = f"gs://{request.getfixturevalue('gcs_bucket')}/x"
    direct = GcsStore(location)
    direct.exists("x")  # the client library looks up the address now
    with serve_line(request.getfixturevalue("gcs_server")[0]) as line:
        connect(monkeypatch, line.address)

        def be(down: bool) -> None:
            line.down = down

        yield Shaky(GcsStore(location), lambda: be(True), lambda: be(False), lambda: direct)


@pytest.fixture
def shaken(shaky):
    """A lease in a store that has gone away until it expired."""
    life = 0.5
    lease = acquire(shaky.store, "r", "plain", life=life)
    reasons = []
    lease.when_lost = reasons.append
    shaky.go()
    time.sleep(1.2 * life)
    with pytest.raises(StoreError):
        lease.confirm()
    assert reasons == []
    yield lease, reasons
    lease.release()


def test_a_lease_outlives_a_store_that_was_away(shaky, shaken):
    lease, reasons = shaken
    assert seconds_until(told(shaky.aside())["expires"]) < 0
    with pytest.raises(StoreError):
        Fenced(shaky.store, lease).write("runs/r/x", b"1")
    shaky.come()
    lease.confirm()
    wait_until(lambda: seconds_until(told(shaky.store)["expires"]) > 0)
    Fenced(shaky.store, lease).write("runs/r/x", b"1")
    assert reasons == []


def test_a_lease_that_another_took_while_the_store_was_away_is_lost(shaky, shaken):
    lease, reasons = shaken
    other = acquire(shaky.aside(), "r", "plain", life=LONG)
    assert other.holder.token == 2
    shaky.come()
    with pytest.raises(LeaseLostError):
        Fenced(shaky.store, lease).write("runs/r/x", b"1")
    wait_until(lambda: reasons)
    assert told(shaky.store)["owner"] == other.holder.owner
    other = acquire(shaky.store, "r", "plain", life=LONG, take_over=True)
    other.release()


def test_without_the_store_nobody_gets_a_lease_and_a_release_is_no_trouble(shaky, shaken):
    lease, _ = shaken
    with pytest.raises(StoreError):
        acquire(shaky.store, "other", "plain")
    lease.release()
    shaky.come()
    following = acquire(shaky.store, "r", "plain", life=LONG)
    assert following.holder.token == 2
    following.release()


def test_tokens_go_on_above_those_of_checkpoints_where_lease_files_were_cleared_away(store, take):
    take().release()
    store.delete("runs/r/leases")
    store.delete(NAME)
    assert take(above=5).holder.token == 6


def test_lease_files_that_are_gone_mean_another_place_and_not_another_session(store, take):
    """A store may be a mount point itself: unmounted, it is an empty folder to write into."""
    lease = take()
    store.delete("runs/r/leases")
    for call in (lease.confirm, lambda: Fenced(store, lease).write("runs/r/a", b"")):
        with pytest.raises(
            StoreError, match=r"runs/r.*the lease of this session is not there.*STORE"
        ):
            call()
    assert not store.exists("runs/r/a")
    store.create("runs/r/leases/00000001.json", b"{}")
    lease.confirm()


def test_a_session_that_could_not_tell_the_store_holds_nobody_up(tmp_path):
    """A notebook's kernel lives on; its next cell must not wait for the one before."""
    store = LocalStore(tmp_path / "store")
    lease = acquire(store, "r", "plain", life=LONG)
    store.root.rename(tmp_path / "away")
    lease.release()
    (tmp_path / "away").rename(store.root)
    acquire(store, "r", "plain", life=LONG).release()
