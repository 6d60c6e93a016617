"""Reading ahead: nothing gets lost, every wait ends, and whatever fails changes no sample."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from relaydet.data import workers
from relaydet.data.workers import Read, Task, Wait, read_in_order
from relaydet.errors import DataError, RelayError, StopError
from relaydet.runtime.stop import StopRequest

MAIN = os.getpid()
BATCHES = [[0, 1, 2], [3], [4, 5], [6, 7, 8], [9], [10, 11]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """A second stands for a minute, and a twentieth for a look."""
    for name, seconds in {
        "LOOK_SECONDS": 0.05, "OBEY_SECONDS": 0.2, "SAY_SECONDS": 0.8, "ALONE_SECONDS": 1.6,
        "GIVE_UP_SECONDS": 3.0, "RETRY_SECONDS": 0.05,
    }.items():  # fmt: skip
        monkeypatch.setattr(workers, name, seconds)


def of(key: int) -> Read:
    """The sample of a key: an image that no other key has."""
    return Read(np.full((3, key + 1, 2), key, np.uint8), {"labels": np.arange(key)})


@dataclass(frozen=True)
class Reader:
    """Reads samples; before that of one key something happens."""

    at: int = -1
    happens: Callable[[], object] = field(default=lambda: None)

    def __call__(self, key: int) -> Read:
        if key == self.at:
            self.happens()
        return of(key)


def task(at: int = -1, happens: Callable[[], object] = lambda: None) -> Task:
    return Task(
        read=Reader(at, happens),
        describe=lambda key: f"image {key} of folder /photos",
        away=lambda error: "/photos is away; mount it." if "away" in str(error) else "",
        batches=BATCHES,
        ahead=4,
    )


def all_of(task: Task, count: int, said: list[str] | None = None, stop: StopRequest | None = None):
    wait = Wait(stop, [].append if said is None else said.append)
    return list(read_in_order(task, count, False, wait))


def assert_whole(batches) -> None:
    assert [len(batch) for batch in batches] == [len(keys) for keys in BATCHES]
    for (image_CHW, target), key in zip(chain(*batches), chain(*BATCHES), strict=True):
        assert np.array_equal(image_CHW.numpy(), of(key).image_CHW)
        assert target["labels"].tolist() == list(range(key))


def assert_no_worker_is_left() -> None:
    assert not [p for p in multiprocessing.active_children() if p.daemon]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    threading.Event().wait()


def in_a_worker(happens: Callable[[], object]) -> Callable[[], object]:
    return lambda: happens() if os.getpid() != MAIN else None


def once(folder: Path, happens: Callable[[], object]) -> Callable[[], object]:
    """At the first call of all processes, and at no later one."""

    def act() -> None:
        with contextlib.suppress(FileExistsError):
            (folder / "done").touch(exist_ok=False)
            happens()

    return act


def fail(error: Exception) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_all_samples_come_in_order(count):
    said = []
    assert_whole(all_of(task(), count, said))
    assert said == []
    assert_no_worker_is_left()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_workers_read_at_the_same_time(monkeypatch, count):
    """None waits for the batch of another to be taken, though no image fits into a socket."""
    for name in ("SAY_SECONDS", "ALONE_SECONDS", "GIVE_UP_SECONDS"):
        monkeypatch.setattr(workers, name, 120.0)
    together = multiprocessing.Barrier(count)

    def read(key: int) -> Read:
        together.wait(60)
        return Read(np.full((3, 500, 1000), key, np.uint8))

    batches = read_in_order(Task(read, str, str, BATCHES, 4), count, False, Wait(say=[].append))
    found = [int(image_CHW[0, 0, 0]) for batch in batches for image_CHW, _ in batch]
    assert found == list(chain(*BATCHES))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("key", [0, 5, 11])
def test_a_killed_worker_costs_no_sample(tmp_path, count, key):
    said = []
    assert_whole(all_of(task(key, once(tmp_path, kill)), count, said))
    assert len(said) == 1
    assert "SIGKILL" in said[0]
    assert "memory" in said[0]
    assert "WORKERS" in said[0]


def test_workers_that_are_killed_again_and_again_are_done_without():
    said = []
    assert_whole(all_of(task(4, in_a_worker(kill)), 2, said))
    assert [line.rpartition(", ")[2] for line in said] == ["with new ones", "without them"]


def test_workers_that_hang_are_done_without():
    said = []
    assert_whole(all_of(task(4, in_a_worker(hang)), 2, said))
    assert "waiting for image 4 of folder /photos" in said[0]
    assert ["with new ones" in line for line in said].count(True) == 1
    assert "without them" in said[2]
    assert_no_worker_is_left()


@pytest.mark.parametrize("count", [0, 2])
def test_a_wait_without_end_ends_with_the_folder_named(count):
    began = time.monotonic()
    with pytest.raises(DataError, match="image 4 of folder /photos") as caught:
        all_of(task(4, hang), count)
    assert "mount" in str(caught.value)
    assert time.monotonic() - began >= workers.GIVE_UP_SECONDS
    assert_no_worker_is_left()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_stop_ends_a_wait(count):
    stop = StopRequest()
    read = read_in_order(task(4, hang), count, False, Wait(stop, [].append))
    assert [len(next(read)) for _ in range(2)] == [3, 1]
    stop.ask("stopped by SIGTERM")
    with pytest.raises(StopError, match="SIGTERM"):
        next(read)
    assert_no_worker_is_left()


def test_a_stop_loses_no_batch_that_is_there():
    stop = StopRequest()
    stop.ask("stopped before it began")
    assert_whole(all_of(task(), 1, stop=stop))


@pytest.mark.parametrize("count", [0, 2])
def test_a_mount_that_comes_back_is_waited_for(tmp_path, count):
    def away() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        if (tmp_path / "tries").stat().st_size < 4:
            raise RelayError("away")

    said = []
    assert_whole(all_of(task(4, away), count, said))
    assert said == [
        f"/photos is away; mount it; trying for {3 / 60:g} minutes in all",
        "images are read again",
    ]


def test_a_mount_that_stays_away_ends_with_its_own_remedy():
    with pytest.raises(DataError, match=r"^/photos is away; mount it\.$"):
        all_of(task(4, fail(RelayError("away"))), 1)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RelayError("it is no image"), DataError, "it is no image"),
        (MemoryError(), DataError, "WORKERS"),
        (KeyError("what nobody expected"), RuntimeError, "what nobody expected"),
    ],
    ids=["no image", "memory", "unforeseen"],
)
def test_an_error_comes_at_its_place_and_as_it_is(count, error, kind, words):
    read = read_in_order(task(4, fail(error)), count, False, Wait(say=[].append))
    assert [len(next(read)) for _ in range(2)] == [3, 1]
    with pytest.raises(kind, match=words):
        next(read)
    assert_no_worker_is_left()


def test_what_cannot_be_sent_is_not_lost_in_silence():
    """torch's DataLoader drops it, and waits for it for ever."""
    read = Task(lambda key: Read(of(key).image_CHW, {"f": lambda: key}), str, str, [[0]], 1)
    said = []
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        all_of(read, 1, said)


def test_where_no_process_can_be_started_reading_goes_on(monkeypatch):
    def start(_process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", start)
    said = []
    assert_whole(all_of(task(), 2, said))
    assert len(said) == 1
    assert "WORKERS 0" in said[0]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_leaves_workers_to_the_main_one(tmp_path, name):
    def signalled() -> None:
        os.kill(os.getpid(), getattr(signal, name))

    said = []
    assert_whole(all_of(task(4, in_a_worker(signalled)), 1, said))
    assert said == []


ORPHANED = """
import os, signal, sys, threading
import numpy as np
from relaydet.data.workers import Read, Task, Wait, read_in_order

def read(key):
    if key:
        threading.Event().wait()
    return Read(np.array([[[os.getpid() % 256, os.getpid() // 256 % 256, os.getpid() // 65536]]],
        np.uint8))

task = Task(read, str, str, [[0], [1]], 1)
(image_CHW, _), = next(read_in_order(task, 1, False, Wait()))
low, middle, high = image_CHW.flatten().tolist()
print(low + 256 * middle + 65536 * high, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_does_not_outlive_a_killed_main_process():
    """Not even where it hangs in reading."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHANED], capture_output=True, text=True, timeout=120, check=False
    )
    worker = int(done.stdout)
    until = time.monotonic() + 60
    while time.monotonic() < until and is_running(worker):
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_worker_that_cannot_be_killed_is_left_behind(monkeypatch):
    """In the midst of a dead mount no signal reaches it; a process that exits must not wait."""
    monkeypatch.setattr(workers, "KILL_SECONDS", 0.2)
    hangs = multiprocessing.Event()
    read = read_in_order(task(4, lambda: (hangs.set(), hang())), 1, False, Wait(say=[].append))
    next(read)
    assert hangs.wait(60)
    (process,) = [p for p in multiprocessing.active_children() if p.daemon]
    monkeypatch.setattr(multiprocessing.Process, "kill", lambda process: None)
    read.close()
    try:
        assert process.is_alive()
        assert process not in multiprocessing.active_children()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
