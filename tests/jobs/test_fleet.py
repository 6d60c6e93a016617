"""Runs that many sessions work off: each is finished once, and trained by one at a time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from relaydet.cli import main
from relaydet.config import FleetConfig, TrainConfig
from relaydet.errors import ForeignFileError, LeaseLostError, RankLostError, RelayError, StopError
from relaydet.jobs import fleet as module
from relaydet.jobs.fleet import fleet
from relaydet.storage.lease import acquire
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store, open_store
from relaydet.training.export import is_exported
from relaydet.training.found import started_config
from relaydet.training.outlook import Outlook
from relaydet.training.run_files import RunFiles

STEPS = 4
LIFE = 1.0
"""Seconds that a lease lives here."""


def finish(store: Store, config: TrainConfig, step: int) -> None:
    """Leave a run as training does: paused, or done with its weights."""
    files = RunFiles(store, config.run)
    files.write_config(config)
    done = step >= STEPS
    if done:
        store.write(f"runs/{config.run}/model.safetensors", b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        store.write(f"runs/{config.run}/model.json", json.dumps({"sha256": digest}).encode())
    files.write_status("done" if done else "paused", Outlook(step, STEPS, None, None), 0)


def ended(state: str, lost: bool = False) -> SimpleNamespace:
    """What `train` returns, as far as a fleet looks at it."""
    return SimpleNamespace(state=state, lost=lost)


class FakeTraining:
    """Trains a run a step at a time under a real lease; writes down who did what when."""

    def __init__(self, folder: Path, die_after: int | None = None) -> None:
        self.folder, self.die_after, self.steps = folder, die_after, 0

    def write(self, event: str, run: str) -> None:
        with (self.folder / "events").open("a") as file:  # one write of a short line is atomic
            file.write(f"{event} {run} {os.getpid()}\n")

    def __call__(self, config: TrainConfig, say, patient: bool):
        store = open_store(config.store)
        lease = acquire(store, config.run, "test", life=LIFE, say=say, patient=patient)
        try:
            status = RunFiles(store, config.run).status()
            step = status["step"] if status else 0
            if step == STEPS:  # as training looks, once it holds the lease
                return ended("done")
            self.write("begin", config.run)
            while step < STEPS:
                time.sleep(random.uniform(0.02, 0.1))
                self.steps += 1
                if self.steps == self.die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                step += 1
                finish(store, config, step)
            self.write("done", config.run)
        finally:
            lease.release()
        return ended("done")


def work(folder: str, die_after: int | None) -> None:
    """A session in a process of its own."""
    module.train = FakeTraining(Path(folder), die_after)
    module.LOOK_AGAIN_SECONDS = 0.2
    fleet(FleetConfig(store=folder), say=lambda line: None)


@pytest.fixture
def runs(tmp_path):
    """Eight runs in a file."""
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{"run": f"r{n}", "epochs": 1} for n in range(8)]))
    return path


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sixteen_sessions_race_over_eight_runs_and_some_are_killed(tmp_path, runs, seed):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["relaydet.jobs.fleet"])
    FakeTraining(tmp_path)  # writes nothing yet
    open_store(tmp_path).write("fleets/fleet.json", runs.read_bytes())
    chance = random.Random(seed)
    deaths = [chance.randint(1, 6) if n % 3 == 0 else None for n in range(16)]
    sessions = [context.Process(target=work, args=(str(tmp_path), after)) for after in deaths]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join(90)
    killed = {s.pid for s in sessions if s.exitcode == -signal.SIGKILL}
    assert killed
    assert {s.exitcode for s in sessions if s.pid not in killed} == {0}
    events = [line.split() for line in (tmp_path / "events").read_text().splitlines()]
    for name in (f"r{n}" for n in range(8)):
        mine = [(event, int(pid)) for event, run, pid in events if run == name]
        assert [event for event, _ in mine].count("done") == 1, "finished once"
        for (event, pid), (following, other) in pairwise(mine):
            if event == "begin" and following == "begin":
                assert pid in killed, "nobody begins while another is at it"
            assert (event, following) != ("done", "done")
            assert not (event == "begin" and following == "done" and pid != other)


def test_a_run_that_cannot_be_trained_does_not_stop_the_others(tmp_path, runs, monkeypatch):
    trained = []

    def train(config, say, patient):
        trained.append(config.run)
        if config.run in ("r2", "r5"):
            raise RelayError(f"{config.run} is broken.")
        finish(open_store(config.store), config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(RelayError, match=r"^r2 is broken\.$"):
        fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=lambda line: None)
    assert trained == [f"r{n}" for n in range(8)]


LOST = RankLostError("Rank 1 died of SIGKILL")


@pytest.mark.parametrize(
    ("troubles", "tries", "left"),
    [
        pytest.param([LOST, LOST], 3, False, id="ranks are lost, and then no more"),
        pytest.param([LOST] * 9, module.LOSSES, True, id="a rank is lost every time"),
        pytest.param([RankLostError("Rank 1: no", told=True)] * 9, 1, True, id="and said why"),
        pytest.param([LeaseLostError("taken over")], 2, False, id="another session was quicker"),
        pytest.param([ended("paused", lost=True)], 2, False, id="another session took it over"),
    ],
)
def test_a_run_in_trouble_is_tried_again(tmp_path, runs, monkeypatch, troubles, tries, left):
    """After all others: they are not kept waiting."""
    trained, to_come = [], iter(troubles)

    def train(config, say, patient):
        trained.append(config.run)
        if config.run == "r1" and (trouble := next(to_come, None)):
            if isinstance(trouble, RelayError):
                raise trouble
            return trouble
        finish(open_store(config.store), config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    said: list[str] = []
    config = FleetConfig(runs=str(runs), store=str(tmp_path))
    if left:
        with pytest.raises(RankLostError, match=r"^Rank 1"):
            fleet(config, said.append)
    else:
        assert fleet(config, said.append).unfinished == []
    assert trained == [*(f"r{n}" for n in range(8)), *["r1"] * (tries - 1)]
    assert any("cannot be trained" in line for line in said) == left


def test_a_stop_while_a_run_waits_is_not_called_a_run_that_cannot_be_trained(
    tmp_path, runs, monkeypatch
):
    trained, said = [], []

    def train(config, say, patient):
        trained.append(config.run)
        raise StopError("Waiting for the checkpoint was ended (stopped by SIGTERM)")

    monkeypatch.setattr(module, "train", train)
    result = fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=said.append)
    assert trained == ["r0"]
    assert len(result.unfinished) == 8
    assert not any("cannot be trained" in line for line in said)
    assert any("stopped by SIGTERM" in line for line in said)


@pytest.mark.parametrize("error", [RankLostError, RelayError])
def test_who_asked_for_a_stop_gets_one_where_the_run_also_broke(tmp_path, runs, monkeypatch, error):
    trained = []

    def train(config, say, patient):
        trained.append(config.run)
        broken = error("Rank 1 died of SIGKILL")
        broken.stopped = True
        raise broken

    monkeypatch.setattr(module, "train", train)
    result = fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=lambda line: None)
    assert trained == ["r0"]
    assert len(result.unfinished) == 8


def test_the_list_stays_in_the_store_and_time_is_shared(tmp_path, runs, monkeypatch):
    given = []

    def train(config, say, patient):
        given.append((config.run, config.max_minutes))
        finish(open_store(config.store), config, 1)
        return ended("paused")

    monkeypatch.setattr(module, "train", train)
    config = FleetConfig(runs=str(runs), store=str(tmp_path), max_minutes=5)
    result = fleet(config, say=lambda line: None)
    assert given[0][0] == "r0"
    assert given[0][1] == pytest.approx(5, abs=0.5)
    assert result.unfinished == [f"r{n}" for n in range(8)]
    assert str(result).startswith("0 of 8 runs are done; run it again to go on with r0")
    again = fleet(FleetConfig(store=str(tmp_path)), say=lambda line: None)
    assert again.runs == result.runs, "the list is in the store"


def test_each_machine_takes_its_own_device_and_gpus_unless_the_list_says(tmp_path, monkeypatch):
    given = {}

    def train(config, say, patient):
        given[config.run] = (config.device, config.gpus)
        finish(open_store(config.store), config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    runs = tmp_path / "runs.json"
    runs.write_text('[{"run": "a", "epochs": 1}, {"run": "b", "epochs": 1, "gpus": 1}]')
    config = FleetConfig(runs=str(runs), store=str(tmp_path), device="cpu", gpus=3)
    fleet(config, say=lambda line: None)
    assert given == {"a": ("cpu", 3), "b": ("cpu", 1)}


def test_when_all_are_done_it_says_so(tmp_path, runs, monkeypatch):
    store = open_store(tmp_path)
    for name in (f"r{n}" for n in range(8)):
        finish(store, TrainConfig(name, epochs=1), STEPS)
    monkeypatch.setattr(module, "train", None)
    said = []
    fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), said.append)
    assert said[-1] == "All 8 runs are done"


class Counting(LocalStore):
    """A folder that counts what is read of it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.reads: list[str] = []

    def read(self, name):
        self.reads.append(name)
        return super().read(name)


def test_weights_are_not_read_to_learn_that_a_run_is_done(tmp_path, runs, monkeypatch):
    store = Counting(tmp_path)
    for name in (f"r{n}" for n in range(7)):
        finish(store, TrainConfig(name, epochs=1), STEPS)
    lease = acquire(store, "r7", "test")
    waits = []

    def wait(seconds):
        waits.append(len(store.reads))
        if len(waits) == 3:
            finish(store, TrainConfig("r7", epochs=1), STEPS)
            lease.release()

    monkeypatch.setattr(module, "find_store", lambda *_, **_more: store)
    monkeypatch.setattr(module, "train", None)
    monkeypatch.setattr(module.time, "sleep", wait)
    store.reads.clear()
    assert fleet(FleetConfig(runs=str(runs)), say=str).unfinished == []
    assert not [name for name in store.reads if name.endswith(".safetensors")]
    assert waits[0] <= 7 * 3 + 4
    assert waits[2] - waits[1] <= 4, "while it waits, it looks at what is left alone"


@pytest.mark.parametrize(
    ("weights", "facts", "cheap", "whole"),
    [
        (b"weights", {"size": 7}, True, True),
        (b"weights", {}, True, True),
        (b"weightz", {"size": 7}, True, False),
        (b"weight", {"size": 7}, False, False),
        (b"", {}, False, False),
        (None, {"size": 7}, False, False),
        (b"weights", None, False, False),
        (b"weights", {"size": 7, "step": 4}, True, True),
        (b"weights", {"size": 7, "step": 3}, False, False),
        (b"weights", {"size": "7"}, False, False),
        (b"weights", {"size": 7, "ap": []}, False, False),
        (b"weights", [], False, False),
    ],
)
def test_weights_are_looked_at_by_size_or_read(tmp_path, weights, facts, cheap, whole):
    store = open_store(tmp_path)
    digest = hashlib.sha256(b"weights").hexdigest()
    if weights is not None:
        store.write("runs/r/model.safetensors", weights)
    if facts is not None:
        told = {"sha256": digest, **facts} if isinstance(facts, dict) else facts
        store.write("runs/r/model.json", json.dumps(told).encode())
    assert is_exported(store, "r", 4, read=False) is cheap
    assert is_exported(store, "r", 4) is whole


def test_one_damaged_run_does_not_hold_up_the_others(tmp_path, runs, monkeypatch):
    store, trained = open_store(tmp_path), []
    store.write("runs/r3/status.json", b"{")
    store.write("runs/r5/config.json", b"[]")
    RunFiles(store, "r5").write_status("done", Outlook(STEPS, STEPS, None, None), 0)

    def train(config, say, patient):
        trained.append(config.run)
        finish(store, config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    assert fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=str).unfinished == []
    assert trained == [f"r{n}" for n in range(8)]


def test_a_run_whose_files_are_of_another_is_told_and_the_others_are_trained(
    tmp_path, runs, monkeypatch
):
    store, trained, said = open_store(tmp_path), [], []
    store.write("runs/r3/config.json", b'{"run": "r2"}')
    store.write("runs/r3/status.json", b'{"state": "done", "step": 4, "total_steps": 4}')

    def train(config, say, patient):
        started_config(store, config.run, say)
        trained.append(config.run)
        finish(store, config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(ForeignFileError, match=r"r3/config\.json: is of run 'r2' and not of 'r3'"):
        fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=said.append)
    assert trained == [f"r{n}" for n in range(8) if n != 3]
    assert any("run 'r3' cannot be trained: " in line for line in said)


def test_a_run_of_a_session_that_died_elsewhere_is_taken_up_once_it_was_watched(
    tmp_path, runs, monkeypatch
):
    """Others are trained meanwhile; whoever trains it then may watch it anew."""
    store, trained = open_store(tmp_path), []
    times = {"renewed": "2026-01-01T00:00:00+00:00", "expires": "2026-01-01T00:00:00.600+00:00"}
    lease = {"owner": "o", "token": 1, "host": "far", "runtime": "x", **times}
    store.write("runs/r2/lease.json", json.dumps(lease).encode())

    def train(config, say, patient):
        trained.append((config.run, patient))
        finish(store, config, STEPS)
        return ended("done")

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.05)
    assert fleet(FleetConfig(runs=str(runs), store=str(tmp_path)), say=str).unfinished == []
    assert sorted(trained[:7]) == [(f"r{n}", False) for n in (0, 1, 3, 4, 5, 6, 7)]
    assert trained[7:] == [("r2", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not a list of runs"),
        ("{}", "not a list of runs"),
        ("[]", "the list is empty"),
        ('[{"run": "a"}, {"run": "a"}]', "'a' is there twice"),
        ('[{"run": "a", "epoch": 3}]', "run 0 has an unknown parameter 'epoch'"),
        ('[{"epochs": 3}]', "run 0 has no name"),
        ('[{"run": "a", "epochs": "many"}]', "not a list of runs"),
        ('[{"run": "../a"}]', "RUN '../a'"),
        (None, "cannot be read"),
    ],
)
def test_lists_that_are_none(tmp_path, text, message):
    path = tmp_path / "runs.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RelayError, match=message):
        fleet(FleetConfig(runs=str(path), store=str(tmp_path / "s")), say=lambda line: None)


def test_without_a_list_it_says_how_to_give_one(tmp_path, capsys):
    assert main(["fleet", "--store", str(tmp_path)]) == 2
    assert "there is no such list; give one with RUNS" in capsys.readouterr().err


def test_impatience_is_refused_at_once(tmp_path):
    store = open_store(tmp_path)
    lease = acquire(store, "r", "test", say=lambda line: None)
    began = time.monotonic()
    with pytest.raises(RelayError, match="being trained by"):
        acquire(store, "r", "test", patient=False)
    assert time.monotonic() - began < 5
    lease.release()
