"""The saver: training goes on whatever the store does, and the order of things holds."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from relaydet.errors import LeaseLostError, RelayError, StoreError
from relaydet.storage.local import LocalStore
from relaydet.training import checkpoint as checkpoint_module
from relaydet.training import saver as saver_module
from relaydet.training.checkpoint import Keep, Lineage, folder_of, load_newest
from relaydet.training.saver import Saver

RUN = "night"
CHECKPOINTS = folder_of(RUN)
PATIENCE = 20.0
"""Seconds that nothing here takes, unless it hangs."""


class Watched(LocalStore):
    """A folder that notes the order in which files are put, and may be held up or fail."""

    def __init__(self, folder):
        super().__init__(folder)
        self.order: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.failed = threading.Semaphore(0)

    def create(self, name, data):
        self._pass(name)
        return super().create(name, data)

    def write(self, name, data):
        self._pass(name)
        super().write(name, data)

    def _pass(self, name):
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.error:
            self.failed.release()
            raise self.error
        self.order.append(name.rpartition("/")[2])

    def fail(self, error: Exception | None = None) -> None:
        self.error = error or StoreError("/store: cannot be written (it is away); mount it.")

    def wait_for_failure(self) -> None:
        assert self.failed.acquire(timeout=PATIENCE)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(saver_module, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def store(tmp_path):
    return Watched(tmp_path / "store")


@pytest.fixture
def said():
    return []


@pytest.fixture
def unsent(tmp_path):
    """Folder of what is not in the store yet."""
    return tmp_path / "unsent"


@pytest.fixture
def saver(store, unsent, said):
    saver = Saver(store, RUN, unsent, Lineage(1, "ada", 0), Keep, said.append)
    yield saver
    store.gate.set()
    saver.close()


def save(saver: Saver, step: int) -> bool:
    return saver.save(step, {"model": {"w": torch.full((2,), float(step))}}, {"fact": "x"})


def files_of(*steps: int) -> list[str]:
    return [f"step-{step:08d}.{kind}" for step in steps for kind in ("pt", "json")]


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_until(condition) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def in_thread(call) -> tuple[threading.Event, threading.Thread]:
    """Call something elsewhere; the event tells that it has returned."""
    returned = threading.Event()
    thread = threading.Thread(target=lambda: (call(), returned.set()), daemon=True)
    thread.start()
    return returned, thread


def test_everything_arrives_in_order(saver, store, unsent):
    for step in (1, 2, 3):
        assert save(saver, step)
        saver.write(f"runs/{RUN}/log.jsonl", b"%d" % step)
        saver.write(f"runs/{RUN}/status.json", b"%d" % step)
        assert saver.finish(PATIENCE)
    one = ["log.jsonl", "status.json"]
    assert store.order == [*files_of(1), *one, *files_of(2), *one, *files_of(3), *one]
    found, skipped = load_newest(store, RUN)
    assert (found.step, skipped, saver.published) == (3, [], 3)
    assert [found.manifest[name] for name in ("token", "owner", "fact")] == [1, "ada", "x"]
    assert kept(unsent) == []
    assert len(store.names(CHECKPOINTS)) == 4, "older ones were tidied away"
    assert saver.pack_seconds > 0
    assert saver.carry_seconds > 0
    assert (saver.trouble, saver.lost) == ("", "")


def test_what_is_kept_is_asked_for_each_time(store, unsent):
    keep = Keep(best=None)
    saver = Saver(store, RUN, unsent, Lineage(), lambda: keep)
    for step in (1, 2, 3, 4):
        save(saver, step)
        assert saver.finish(PATIENCE)
        keep = Keep(best=2)
    saver.close()
    assert [name.rpartition("/")[2] for name in store.names(CHECKPOINTS)] == sorted(
        files_of(2, 3, 4)
    )


def test_training_goes_on_while_a_checkpoint_is_on_its_way_and_the_next_save_waits(saver, store):
    store.gate.clear()
    assert save(saver, 1)
    assert store.entered.wait(PATIENCE)
    assert saver.published is None, "save has returned, and the copy is under way"
    returned, _ = in_thread(lambda: save(saver, 2))
    assert not returned.wait(0.2)
    store.gate.set()
    assert returned.wait(PATIENCE)
    assert saver.finish(PATIENCE)
    assert store.order == files_of(1, 2)


def test_where_there_is_no_time_a_save_does_not_wait_for_the_one_before(saver, store, unsent):
    store.gate.clear()
    save(saver, 1)
    returned, _ = in_thread(lambda: saver.save(2, {"model": {"w": torch.ones(2)}}, {}, True))
    assert returned.wait(PATIENCE)
    assert set(files_of(2)) <= set(kept(unsent)), "safe here, while the first is on its way"
    store.gate.set()
    assert saver.finish(PATIENCE)
    assert load_newest(store, RUN)[0].step == 2


def test_what_is_saved_is_the_state_at_that_moment(saver, store):
    store.gate.clear()
    weights = torch.zeros(2)
    saver.save(1, {"model": {"w": weights}}, {})
    weights += 1
    store.gate.set()
    assert saver.finish(PATIENCE)
    assert torch.equal(load_newest(store, RUN)[0].state["model"]["w"], torch.zeros(2))


def test_of_several_files_under_one_name_the_last_is_written(saver, store):
    store.gate.clear()
    save(saver, 1)
    assert store.entered.wait(PATIENCE)
    for number in range(50):
        saver.write("runs/night/status.json", b"%d" % number)
    store.gate.set()
    assert saver.finish(PATIENCE)
    assert store.read("runs/night/status.json") == b"49"
    assert store.order.count("status.json") == 1


class Appended(Watched):
    """A folder that counts the bytes that are written to it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.bytes: list[tuple[str, int]] = []

    def write(self, name, data):
        super().write(name, data)
        self.bytes.append(("whole", len(data)))

    def append(self, name, before, data):
        done = super().append(name, before, data)
        self.bytes += [("added", len(data))] if done else []
        return done


def test_a_log_that_grew_is_appended_to(tmp_path, said):
    """The rest is written whole: what was before it, and what another session wrote."""
    store = Appended(tmp_path / "store")
    saver = Saver(store, RUN, tmp_path / "unsent", Lineage(), Keep, said.append)
    name, lines = "runs/night/log.jsonl", [b"%04d\n" % n for n in range(1000)]
    store.write(name, b"what an earlier session left")
    store.bytes.clear()

    def put(data: bytes) -> list[tuple[str, int]]:
        saver.write(name, data)
        assert saver.finish(PATIENCE)
        assert store.read(name) == data
        told, store.bytes = store.bytes, []
        return told

    assert put(b"".join(lines[:900])) == [("whole", 4500)]
    assert put(b"".join(lines[:902])) == [("added", 10)]
    assert put(b"".join(lines[:902])) == [], "nothing is new"
    assert put(b"".join(lines[:903])) == [("added", 5)]
    assert put(b"".join([*lines[:901], b"else\n"])) == [("whole", 4510)], "another line"
    store.write(name, b"".join(lines[:910]))
    store.bytes.clear()
    assert put(b"".join([*lines[:901], b"else\n", b"more\n"])) == [("whole", 4515)]
    saver.write("runs/night/status.json", b"1")
    saver.write("runs/night/status.json", b"12")
    assert saver.finish(PATIENCE)
    assert {how for how, _ in store.bytes} == {"whole"}
    saver.close()


def test_what_was_appended_before_a_failure_is_not_appended_twice(tmp_path, said):
    store = Appended(tmp_path / "store")
    saver = Saver(store, RUN, tmp_path / "unsent", Lineage(), Keep, said.append)
    name, real = "runs/night/log.jsonl", store.append
    saver.write(name, b"1\n")
    assert saver.finish(PATIENCE)

    def torn(name, before, data):
        real(name, before, data[:1])
        store.append = real
        raise StoreError("/store: cannot be written (it is full); free it.")

    store.append = torn
    saver.write(name, b"1\n22\n")
    assert saver.finish(PATIENCE)
    assert store.read(name) == b"1\n22\n"
    assert store.bytes[-1] == ("added", 3)
    saver.close()


# A store that is away.


def test_training_does_not_wait_for_a_store_that_is_away(saver, store, unsent, said):
    store.fail()
    for step in range(1, 6):
        assert save(saver, step)
        saver.write("runs/night/status.json", b"%d" % step)
        store.wait_for_failure()
    wait_until(lambda: kept(unsent) == sorted(files_of(5)))
    assert saver.trouble == str(store.error)
    assert saver.published is None
    (sentence,) = said
    assert "/store: cannot be written (it is away); mount it. Training goes on" in sentence
    assert str(unsent) in sentence

    store.error = None
    assert saver.finish(PATIENCE)
    assert store.order == [*files_of(5), "status.json"], "the checkpoint before what tells of it"
    assert store.read("runs/night/status.json") == b"5"
    assert load_newest(store, RUN)[0].step == 5
    assert said[1:] == ["the store is back, and has everything again"]
    assert (saver.trouble, saver.published, kept(unsent)) == ("", 5, [])


def test_the_next_trouble_is_said_again(saver, store, said):
    for _ in range(2):
        store.fail()
        saver.write("runs/night/status.json", b"x")
        store.wait_for_failure()
        store.wait_for_failure()
        store.error = None
        assert saver.finish(PATIENCE)
    assert len(said) == 4
    assert said[0] == said[2] != said[1] == said[3]


def test_a_newer_file_takes_the_place_of_one_that_is_being_tried(saver, store):
    store.fail()
    store.gate.clear()
    saver.write("runs/night/status.json", b"old")
    assert store.entered.wait(PATIENCE)
    saver.write("runs/night/status.json", b"new")
    store.gate.set()
    store.wait_for_failure()
    store.error = None
    assert saver.finish(PATIENCE)
    assert store.read("runs/night/status.json") == b"new"


def test_a_newer_checkpoint_takes_the_place_of_one_that_is_being_tried(saver, store, unsent):
    """The store fails with the older one in its hands, when the newer one is there already."""
    store.fail()
    save(saver, 1)
    store.wait_for_failure()
    wait_until(lambda: saver.trouble)
    store.entered.clear()
    store.gate.clear()
    assert store.entered.wait(PATIENCE), "it is tried once more"
    save(saver, 2)
    assert kept(unsent) == sorted(files_of(1, 2))
    store.gate.set()
    wait_until(lambda: kept(unsent) == sorted(files_of(2)))
    store.error = None
    assert saver.finish(PATIENCE)
    assert store.order == files_of(2)


class Unlistable(Watched):
    """A store that takes a checkpoint and then cannot tell what it has."""

    away = False

    def names(self, prefix):
        if self.away:
            self.failed.release()
            raise StoreError("/store: cannot be listed; mount it.")
        return super().names(prefix)


def test_a_checkpoint_that_arrived_is_not_sent_again_where_tidying_fails(tmp_path, said):
    store = Unlistable(tmp_path / "store")
    store.away = True
    saver = Saver(store, RUN, tmp_path / "unsent", Lineage(), Keep, said.append)
    save(saver, 1)
    saver.write("runs/night/log.jsonl", b"1")
    store.wait_for_failure()
    assert saver.finish(PATIENCE)
    assert store.order == [*files_of(1), "log.jsonl"]
    assert saver.published == 1
    store.away = False
    for step in (2, 3):
        save(saver, step)
        assert saver.finish(PATIENCE)
    saver.close()
    assert [name.rpartition("/")[2] for name in store.names(CHECKPOINTS)] == sorted(files_of(2, 3))


def test_the_folder_goes_away_and_comes_back(tmp_path, said):
    folder = tmp_path / "store"
    store = LocalStore(folder)
    saver = Saver(store, RUN, tmp_path / "unsent", Lineage(), Keep, said.append)
    save(saver, 1)
    assert saver.finish(PATIENCE)
    folder.rename(tmp_path / "away")
    save(saver, 2)
    wait_until(lambda: saver.trouble)
    assert not folder.exists(), "nothing is written where the mount was"
    (tmp_path / "away").rename(folder)
    assert saver.finish(PATIENCE)
    saver.close()
    assert load_newest(store, RUN)[0].step == 2
    assert "the folder is gone" in said[0]
    assert "the store is back" in said[1]


def test_the_end_does_not_sit_out_a_long_rest(saver, store, monkeypatch):
    monkeypatch.setattr(saver_module, "FIRST_WAIT_SECONDS", 1000.0)
    monkeypatch.setattr(saver_module, "LONGEST_WAIT_SECONDS", 1000.0)
    store.fail()
    save(saver, 1)
    store.wait_for_failure()
    wait_until(lambda: saver.trouble)
    store.error = None
    assert saver.finish(PATIENCE)
    assert saver.published == 1


@pytest.mark.parametrize("seconds", [0.0, 0.05, -1.0])
def test_a_store_that_is_too_slow_is_waited_for_no_longer_than_that(saver, store, seconds):
    store.gate.clear()
    save(saver, 1)
    started = time.monotonic()
    assert saver.finish(seconds) is False
    assert time.monotonic() - started < 5
    store.gate.set()
    assert saver.finish(PATIENCE) is True


def test_a_store_that_stays_away_is_waited_for_no_longer_than_that(saver, store, unsent):
    store.fail()
    save(saver, 1)
    assert saver.finish(0.1) is False
    assert saver.trouble == str(store.error)
    assert saver.folder == unsent
    store.wait_for_failure()
    wait_until(lambda: kept(unsent) == sorted(files_of(1)))


@pytest.mark.parametrize("hangs", [False, True], ids=["it fails", "it does not answer"])
def test_after_a_signal_a_store_that_is_away_is_waited_for_some_seconds(
    saver, store, unsent, monkeypatch, hangs
):
    monkeypatch.setattr(saver_module, "SIGNALLED_SECONDS", 0.2)
    monkeypatch.setattr(saver_module, "UNKNOWN_CARRY_SECONDS", 0.1)
    if hangs:
        store.gate.clear()
    else:
        store.fail()
    save(saver, 1)
    started = time.monotonic()
    assert saver.finish(PATIENCE, lambda: time.monotonic() - started > 0.1) is False
    assert time.monotonic() - started < PATIENCE / 2
    assert kept(unsent) == sorted(files_of(1)), "the last whole step is on this machine's disk"


def test_after_a_signal_what_only_memory_has_is_waited_for_all_the_same(
    saver, store, unsent, monkeypatch
):
    monkeypatch.setattr(saver_module, "SIGNALLED_SECONDS", 0.01)
    unsent.write_bytes(b"no folder")  # this machine's disk takes nothing
    save(saver, 1)
    store.fail()
    save(saver, 2)
    store.wait_for_failure()
    threading.Timer(1.0, setattr, (store, "error", None)).start()
    assert saver.finish(PATIENCE, lambda: True) is True
    assert saver.published == 2


def test_what_is_not_in_the_store_at_the_end_stays_on_this_machine(saver, store, unsent):
    store.fail()
    save(saver, 1)
    store.wait_for_failure()
    saver.close()
    wait_until(lambda: not any(t.name == "saver" and t.is_alive() for t in threading.enumerate()))
    assert kept(unsent) == sorted(files_of(1))
    assert json.loads((unsent / files_of(1)[1]).read_bytes())["step"] == 1


# A run that is another session's.


def test_a_lost_run_is_not_written_to_any_more(saver, store, said, unsent):
    store.fail(LeaseLostError("run 'night' was taken over by bob"))
    save(saver, 1)
    saver.write("runs/night/status.json", b"1")
    store.wait_for_failure()
    wait_until(lambda: saver.lost)
    assert saver.lost == "run 'night' was taken over by bob"
    store.error = None
    saver.write("runs/night/status.json", b"2")
    assert save(saver, 2), "it is safe on this machine"
    assert save(saver, 3), "and nobody waits for a store"
    assert saver.finish(PATIENCE) is False
    assert (store.order, said) == ([], [])
    assert set(files_of(3)) <= set(kept(unsent))


# This machine's own disk.


def no(error: int):
    """A function of the system that fails."""

    def fail(*_args, **_more):
        raise OSError(error, os.strerror(error))

    return fail


DISK_ERRORS = [errno.EIO, errno.EROFS, errno.ESTALE, errno.EDQUOT, errno.ENOSPC, errno.EACCES]


@pytest.mark.parametrize("error", DISK_ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["mkdir", "write_bytes", "replace", "unlink"])
def test_what_this_disk_does_not_take_goes_to_the_store_from_memory(
    saver, store, said, unsent, monkeypatch, error, call
):
    original = getattr(Path, call)

    def only_there(path, *args, **more):
        if unsent in (path, path.parent):
            raise OSError(error, os.strerror(error))
        return original(path, *args, **more)

    monkeypatch.setattr(Path, call, only_there)
    for step in (1, 2, 3):
        assert save(saver, step)
        assert saver.finish(PATIENCE)
        assert saver.published == step
    found, skipped = load_newest(store, RUN)
    assert (found.step, skipped) == (3, [])
    assert torch.equal(found.state["model"]["w"], torch.full((2,), 3.0))
    assert len(store.names(CHECKPOINTS)) == 4, "older ones were tidied away"
    (sentence,) = said
    assert f"{unsent}: {os.strerror(error)}" in sentence
    assert "RELAYDET_CACHE" in sentence
    assert "training goes on, and checkpoints go to the store from memory" in sentence


def test_a_disk_that_is_well_again_is_used_again(saver, said, unsent, monkeypatch):
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", no(errno.ENOSPC))
            assert save(saver, 1)
            assert saver.kept_in() == "memory alone"
        assert saver.finish(PATIENCE)
        assert save(saver, 2)
        assert saver.kept_in() == str(unsent)
        assert saver.finish(PATIENCE)
    assert len(said) == 2, "what was over is said again"


@pytest.mark.parametrize("error", DISK_ERRORS, ids=errno.errorcode.get)
def test_a_disk_that_does_not_let_go_while_carrying_is_said_once(
    saver, store, said, unsent, monkeypatch, error
):
    monkeypatch.setattr(checkpoint_module.Packed, "remove", no(error))
    for step in (1, 2, 3):
        assert save(saver, step)
        saver.write("runs/night/status.json", b"%d" % step)
        assert saver.finish(PATIENCE)
    assert (load_newest(store, RUN)[0].step, saver.published) == (3, 3)
    assert store.read("runs/night/status.json") == b"3"
    (sentence,) = said
    assert f"{unsent}/step-00000001.pt: cannot be removed ({os.strerror(error)})" in sentence


def test_older_sessions_leavings_that_do_not_go_are_no_reason_to_end(store, unsent, said):
    saver = Saver(store, RUN, unsent, Lineage(1), Keep, said.append, when_published=no(errno.EIO))
    assert save(saver, 1)
    assert saver.finish(PATIENCE)
    saver.close()
    assert saver.published == 1
    assert ["cannot be removed" in line for line in said] == [True]


@pytest.mark.parametrize("ending", [".pt", ".json"])
def test_what_the_disk_does_not_give_back_is_saved_anew_from_memory(
    saver, store, said, unsent, ending
):
    """It is not tried again for ever, as where the store is away."""
    store.gate.clear()
    assert save(saver, 1)
    assert store.entered.wait(PATIENCE)
    (unsent / f"step-00000001{ending}").unlink()
    if ending == ".pt":
        (unsent / "step-00000001.pt").mkdir()
    store.gate.set()
    wait_until(lambda: saver.dropped)
    assert saver.finish(PATIENCE)
    assert (saver.dropped, saver.published) == (1, None)
    assert "step 1: its checkpoint cannot be read back" in said[0]
    assert str(unsent / f"step-00000001{ending}") in said[0]
    assert save(saver, 2)
    assert saver.finish(PATIENCE)
    assert load_newest(store, RUN)[0].step == 2
    assert saver.kept_in() == "memory alone"


def test_the_first_save_that_neither_disk_nor_store_takes_ends_the_session(
    store, unsent, said, monkeypatch
):
    monkeypatch.setattr(Path, "write_bytes", no(errno.EROFS))
    store.fail()
    saver = Saver(store, RUN, unsent, Lineage(1, "ada", 7), Keep, said.append)
    with pytest.raises(RelayError) as raised:
        save(saver, 7)
    saver.close()
    message = str(raised.value)
    assert message.startswith("Step 7: nothing of this session could be saved: neither on this")
    assert f"({unsent}: Read-only file system) nor in the store (/store: cannot be" in message
    assert "RELAYDET_CACHE" in message


def test_later_ones_may_fail_for_a_while(saver, store, said, unsent, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(saver_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Path, "write_bytes", no(errno.EIO))
    store.fail()
    for seconds in (0.0, 60.0, saver_module.UNSAVED_SECONDS):
        now[0] = 100.0 + seconds
        assert save(saver, 1 + int(seconds))
        store.wait_for_failure()
        wait_until(lambda: saver.trouble)
    assert "is kept in memory alone" in said[1]
    now[0] += 1
    with pytest.raises(RelayError, match=r"Step 5: nothing for 30 minutes could be saved"):
        save(saver, 5)
    store.error = None
    with saver._changed:
        saver._changed.notify_all()
    wait_until(lambda: saver.published == 1801)
    assert save(saver, 6), "the store took one meanwhile"
    now[0] += saver_module.UNSAVED_SECONDS
    wait_until(lambda: saver.published == 6)
    assert save(saver, 7)


def test_one_checkpoint_at_a_time_is_in_memory(saver, store, unsent, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", no(errno.EIO))
    monkeypatch.setattr(saver_module, "LEAST_PATIENCE_SECONDS", 0.05)
    store.gate.clear()
    assert save(saver, 1)
    assert store.entered.wait(PATIENCE)
    assert save(saver, 2) is False, "the one before is on its way still"
    assert saver.save(3, {"model": {"w": torch.ones(2)}}, {}, at_once=True), "there is no time"
    store.gate.set()
    assert saver.finish(PATIENCE)
    assert load_newest(store, RUN)[0].step == 3


# A stop.


def test_a_stop_ends_the_wait_for_the_checkpoint_before(store, unsent, said):
    stop = []
    saver = Saver(store, RUN, unsent, Lineage(1), Keep, said.append, stop=lambda: stop)
    store.gate.clear()
    assert save(saver, 1)
    assert store.entered.wait(PATIENCE)
    returned, _ = in_thread(lambda: save(saver, 2))
    assert not returned.wait(0.2)
    stop.append("SIGTERM")
    assert returned.wait(5), "a stop is obeyed within 10 s"
    assert set(files_of(2)) <= set(kept(unsent)), "the last whole step is safe"
    store.gate.set()
    assert saver.finish(PATIENCE)
    saver.close()
    assert load_newest(store, RUN)[0].step == 2


@pytest.mark.parametrize("wait", ["save", "finish"])
def test_a_long_wait_says_what_it_waits_for(saver, store, said, tmp_path, monkeypatch, wait):
    monkeypatch.setattr(saver_module, "TELL_SECONDS", 0.05)
    store.gate.clear()
    save(saver, 1)
    returned, _ = in_thread(lambda: save(saver, 2) if wait == "save" else saver.finish(PATIENCE))
    wait_until(lambda: len(said) >= 2)
    store.gate.set()
    assert returned.wait(PATIENCE)
    assert all(f"waiting for {tmp_path / 'store'}/runs/night to take" in line for line in said)
    assert "s more at most" in said[0]


def test_a_second_ctrl_c_ends_the_wait_at_the_end(saver, store):
    store.gate.clear()
    save(saver, 1)
    assert store.entered.wait(PATIENCE)
    pressed = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            saver.finish(PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)


# What nobody expected.


@pytest.fixture
def broken(saver, store):
    """A saver whose thread has died of something unexpected."""
    store.fail(ZeroDivisionError("a bug"))
    save(saver, 1)
    store.wait_for_failure()
    wait_until(lambda: not any(t.name == "saver" and t.is_alive() for t in threading.enumerate()))
    return saver


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda saver: save(saver, 2), id="save"),
        pytest.param(lambda saver: saver.finish(PATIENCE), id="finish"),
        pytest.param(lambda saver: saver.finish(0), id="finish at once"),
    ],
)
def test_what_nobody_expected_reaches_training(broken, call):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        call(broken)


def test_who_waits_when_it_happens_gets_it_too(saver, store):
    store.gate.clear()
    save(saver, 1)
    raised = []

    def finish():
        try:
            saver.finish(PATIENCE)
        except ZeroDivisionError as error:
            raised.append(error)

    returned, thread = in_thread(finish)
    assert not returned.wait(0.1)
    store.fail(ZeroDivisionError("a bug"))
    store.gate.set()
    thread.join(PATIENCE)
    assert raised == [store.error]
