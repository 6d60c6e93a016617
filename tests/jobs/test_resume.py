"""A run that is killed, however often, ends with the weights of one that never was."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from relaydet.cli import main
from relaydet.compat import detector_runs_in_float16_on_cpu
from relaydet.config import TrainConfig
from relaydet.data import workers
from relaydet.data.images.folder import ImageFolder
from relaydet.errors import RelayError, StopError, StoreError
from relaydet.jobs import train as train_job
from relaydet.jobs.train import train
from relaydet.model import build_model
from relaydet.runtime import stop as stopping
from relaydet.runtime.stop import StopRequest
from relaydet.training import loop, saver, session, steps

EPOCHS, BATCH = 3, 4
STEPS = 15
FORKED = multiprocessing.get_context("forkserver")
"""Processes of their own, which need not import torch again."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The number of threads reaches the weights' last bits, and two cores are soon taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        FORKED.set_forkserver_preload(["relaydet.jobs.train"])
        forkserver.ensure_running()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store


@pytest.fixture
def own_store(store, tmp_path):
    """A store of the test's own with the dataset in it, to be moved about and damaged."""
    shutil.copytree(store / "datasets", tmp_path / "store" / "datasets")
    return tmp_path / "store"


def config(store: Path, run: str, **changes) -> TrainConfig:
    return TrainConfig(
        **{
            "run": run,
            "dataset": "tiny",
            "store": str(store),
            "model": "small",
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "image_size": 64,
            "device": "cpu",
            "workers": 0,
            **changes,
        }
    )


def train_quietly(config: TrainConfig):
    return train(config, say=lambda _: None)


def read(store: Path, run: str, file: str) -> dict:
    return msgspec.json.decode((store / "runs" / run / file).read_bytes())


def weights_hash(store: Path, run: str) -> str:
    return read(store, run, "model.json")["sha256"]


def checkpoints(store: Path, run: str) -> list[int]:
    """Steps, in order."""
    folder = store / "runs" / run / "checkpoints"
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("step-*.json"))


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(store):
    """Hash of the weights of a run in one piece."""
    assert train_quietly(config(store, "whole")).state == "done"
    return weights_hash(store, "whole")


def run_session(flags: list[str], cache: str, output: str, lease_seconds: float) -> None:
    """What a process of its own does: `relaydet train`, with a lease of another length."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for its loader processes
    with Path(output).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["RELAYDET_CACHE"] = cache
    torch.set_num_threads(1)
    train_job.acquire = functools.partial(train_job.acquire, life=lease_seconds)
    sys.exit(main(["train", *flags]))


class Started:
    """A session in a process of its own, which saves after every step."""

    def __init__(self, config: TrainConfig, output: Path, lease_seconds: float = 180.0) -> None:
        flags = [
            "--run", config.run, "--dataset", config.dataset, "--store", config.store,
            "--model", config.model, "--epochs", str(config.epochs),
            "--batch-size", str(config.batch_size), "--image-size", str(config.image_size),
            "--device", "cpu", "--workers", str(config.workers), "--checkpoint-minutes", "0.001",
        ]  # fmt: skip
        self.store, self.run, self._output = Path(config.store), config.run, output
        self._process = FORKED.Process(
            target=run_session,
            args=(flags, os.environ["RELAYDET_CACHE"], str(output), lease_seconds),
        )
        self._process.start()

    def is_alive(self) -> bool:
        return self._process.exitcode is None

    def wait_for_checkpoint(self, newer_than: int) -> int:
        """Step of the first checkpoint beyond a step; 0 once the process has ended."""
        while self.is_alive():
            step = max(checkpoints(self.store, self.run), default=0)
            if step > newer_than:
                return step
            time.sleep(0.02)
        return 0

    def kill(self) -> bool:
        """SIGKILL, its loader processes too; returns whether it was still alive."""
        alive = self.is_alive()
        if alive:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # so young that it has no group of its own yet
                self._process.kill()
        self._process.join()
        return alive

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> tuple[int, str]:
        """Exit code, and what it printed."""
        self._process.join(60)
        return self._process.exitcode, self._output.read_text()


@pytest.fixture
def start(tmp_path):
    """Starts sessions; leaves none behind."""
    started: list[Started] = []

    def start(config: TrainConfig, **more) -> Started:
        started.append(Started(config, tmp_path / "output", **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def at_step(monkeypatch):
    """Has something done right before a step's results are saved; returns the steps trained."""

    def at_step(actions: dict[int, Callable[[], object]] | None = None) -> list[int]:
        trained, original = [], steps.train_steps

        def train_steps(**more):
            for done in original(**more):
                trained.append(done.step)
                (actions or {}).get(done.step, lambda: None)()
                yield done

        monkeypatch.setattr(steps, "train_steps", train_steps)
        return trained

    return at_step


@pytest.fixture
def short_waits(monkeypatch):
    """Nobody waits long for a store or a lease."""
    monkeypatch.setattr(saver, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(saver, "LONGEST_WAIT_SECONDS", 0.1)
    shorter = functools.partial(train_job.acquire, life=1.5)
    monkeypatch.setattr(train_job, "acquire", shorter)


@pytest.mark.parametrize(
    ("seed", "times"), [(1, 2), pytest.param(2, 4, marks=pytest.mark.slow)], ids=["twice", "often"]
)
def test_kill_9_at_random_instants_changes_no_bit(store, uninterrupted, start, seed, times):
    chance, run, step, kills = random.Random(seed), f"killed-{seed}", 0, 0
    for _ in range(times):
        process = start(config(store, run, workers=1))
        step = process.wait_for_checkpoint(newer_than=step)
        time.sleep(chance.uniform(0, 0.4))
        kills += process.kill()
    assert kills > 0
    result = train_quietly(config(store, run))
    assert result.state == "done"
    assert weights_hash(store, run) == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_count_changes_no_bit(store, uninterrupted, workers):
    train_quietly(config(store, f"workers-{workers}", workers=workers))
    assert weights_hash(store, f"workers-{workers}") == uninterrupted


@pytest.mark.slow
def test_recomputing_activations_from_some_step_on_changes_no_bit(store, tmp_path):
    body = build_model("resnet18", ["person"], "none", 64).model.backbone.body.state_dict()
    save_file(body, tmp_path / "body.safetensors")
    told = {"model": "resnet18", "weights": str(tmp_path / "body.safetensors"), "epochs": 1}
    assert train_quietly(config(store, "remembered", **told)).state == "done"
    assert train_quietly(config(store, "recomputed", **told, max_minutes=0.0)).state == "paused"
    assert train_quietly(config(store, "recomputed", **told, recompute=True)).state == "done"
    assert weights_hash(store, "recomputed") == weights_hash(store, "remembered")


def test_recomputing_is_refused_where_batch_norms_train(store):
    with pytest.raises(RelayError, match="RECOMPUTE"):
        train_quietly(config(store, "norms", recompute=True))


def test_sigterm_saves_and_pauses_and_the_next_call_goes_on(store, uninterrupted, start):
    process = start(config(store, "paused", workers=1))
    reached = process.wait_for_checkpoint(newer_than=0)
    process.terminate()
    code, output = process.wait()
    assert code == 0
    assert "(stopped by SIGTERM)" in output
    status = read(store, "paused", "status.json")
    assert status["state"] == "paused"
    assert status["reason"] == "stopped by SIGTERM"
    assert status["step"] >= reached
    assert train_quietly(config(store, "paused")).state == "done"
    assert weights_hash(store, "paused") == uninterrupted


@pytest.mark.skipif(
    not detector_runs_in_float16_on_cpu(), reason="this torch has no float16 on a CPU"
)
def test_float16_goes_on_with_the_scale_that_it_had(store, monkeypatch):
    """At first every step overflows, and is skipped: a scale that is lost would skip them again."""
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**60, backoff_factor=2.0**-15)
    monkeypatch.setattr(loop, "grad_scaler", scaler)
    half = {"precision": "float16", "epochs": 1}
    train_quietly(config(store, "half-whole", **half))
    for _ in range(4):
        paused = train_quietly(config(store, "half", **half, max_minutes=0.0))
    assert (paused.state, paused.step) == ("paused", 4)
    assert train_quietly(config(store, "half", **half)).state == "done"
    assert weights_hash(store, "half") == weights_hash(store, "half-whole")


def test_max_minutes_pauses_and_says_why(store):
    result = train_quietly(config(store, "short", max_minutes=0.0))
    assert (result.state, result.step) == ("paused", 1)
    assert "MAX_MINUTES" in result.reason
    assert "Run it again" in str(result)


def test_the_status_tells_how_much_is_left(store):
    train_quietly(config(store, "status", max_minutes=0.0))
    status = read(store, "status", "status.json")
    assert (status["state"], status["step"], status["total_steps"]) == ("paused", 1, STEPS)
    assert status["sessions_left"] == STEPS - 1, "sessions of one step"
    assert status["seconds_left"] > 0
    train_quietly(config(store, "status"))
    status = read(store, "status", "status.json")
    assert (status["state"], status["step"], status["epoch"]) == ("done", STEPS, EPOCHS)
    assert (status["sessions_left"], status["seconds_left"]) == (0, 0)


def test_log_has_each_step_once_after_a_resume(store):
    train_quietly(config(store, "logged", max_minutes=0.0))
    result = train_quietly(config(store, "logged"))
    steps = [line["step"] for line in result.log]
    assert steps == sorted(set(steps))
    assert steps[-1] == result.total_steps


def test_a_finished_run_is_not_trained_again(store, uninterrupted):
    said = []
    before = (store / "runs/whole/model.safetensors").stat().st_mtime_ns
    result = train(config(store, "whole"), say=said.append)
    assert result.state == "done"
    assert "is done" in said[-1]
    assert (store / "runs/whole/model.safetensors").stat().st_mtime_ns == before


def test_a_run_that_another_session_has_just_finished_is_not_trained_again(
    store, uninterrupted, monkeypatch, at_step
):
    """It was not done when this session looked, and is once it holds the lease."""
    looked, original = [], train_job._finished

    def finished(*given):
        looked.append(1)
        return original(*given) if len(looked) > 1 else None

    monkeypatch.setattr(train_job, "_finished", finished)
    trained = at_step()
    assert train_quietly(config(store, "whole")).state == "done"
    assert (len(looked), trained) == (2, [])


def test_another_batch_size_is_refused_on_a_resume(store):
    train_quietly(config(store, "fixed", max_minutes=0.0))
    with pytest.raises(RelayError, match="BATCH_SIZE"):
        train_quietly(config(store, "fixed", batch_size=2))


def test_a_value_that_is_not_taken_is_named(store):
    train_quietly(config(store, "kept", seed=5, max_minutes=0.0))
    said = []
    train(config(store, "kept", seed=0, max_minutes=0.0), say=said.append)
    assert "SEED: 5, as the run was started, and not 0" in said


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(store):
    train_quietly(config(store, "torn", max_minutes=0.0))
    for path in (store / "runs/torn/checkpoints").glob("*.pt"):
        path.write_bytes(b"torn")
    with pytest.raises(RelayError, match="none can be used"):
        train_quietly(config(store, "torn"))


def test_an_error_that_nobody_expected_is_in_the_status(store, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("the GPU fell off the bus")

    monkeypatch.setattr("relaydet.training.steps.train_steps", fail)
    with pytest.raises(RuntimeError):
        train_quietly(config(store, "broken"))
    status = read(store, "broken", "status.json")
    assert (status["state"], status["reason"]) == ("failed", "the GPU fell off the bus")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_run_name_that_is_no_folder_is_refused(store, name):
    with pytest.raises(RelayError, match=r"^RUN"):
        train_quietly(config(store, name))


def test_a_dataset_that_changed_is_refused_on_a_resume(store, tmp_path):
    train_quietly(config(store, "moved", max_minutes=0.0))
    annotations = store / "datasets/tiny/annotations.json"
    before = annotations.read_bytes()
    annotations.write_bytes(before.replace(b'"iscrowd":0', b'"iscrowd":1', 1))
    try:
        with pytest.raises(RelayError, match="has changed"):
            train_quietly(config(store, "moved"))
    finally:
        annotations.write_bytes(before)


def test_a_new_run_saves_its_first_weights_before_it_trains(store, tmp_path, monkeypatch):
    """Where they came from may be gone when it goes on: no internet, another machine."""
    train_quietly(config(store, "giver", epochs=1))
    given = str(shutil.copy(store / "runs/giver/model.safetensors", tmp_path / "first.safetensors"))
    train_quietly(config(store, "taker", epochs=1, weights=given))

    def fail(**_more):
        raise RuntimeError("the runtime went away")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "train_steps", fail)
        with pytest.raises(RuntimeError):
            train_quietly(config(store, "offline", epochs=1, weights=given))
    assert checkpoints(store, "offline") == [0]
    Path(given).unlink()
    assert train_quietly(config(store, "offline", epochs=1)).state == "done"
    assert weights_hash(store, "offline") == weights_hash(store, "taker")


def test_a_finished_run_with_more_epochs_goes_on(store, at_step):
    train_quietly(config(store, "longer", epochs=1))
    trained, said = at_step(), []
    result = train(config(store, "longer", epochs=2), say=said.append)
    assert (result.state, result.total_steps) == ("done", 10)
    assert trained == [6, 7, 8, 9, 10]
    assert any(line.startswith("EPOCHS: 1 until now, 2 from here on") for line in said)
    assert read(store, "longer", "status.json")["step"] == 10
    assert read(store, "longer", "config.json")["epochs"] == 2
    with pytest.raises(RelayError, match=r"EPOCHS \(2 then, 1 now\)"):
        train_quietly(config(store, "longer", epochs=1))


def test_a_run_goes_on_in_another_store(store, own_store, tmp_path, uninterrupted, at_step):
    train_quietly(config(own_store, "moved", max_minutes=0.0))
    before, elsewhere = tree(own_store), tmp_path / "elsewhere"
    trained, said = at_step(), []
    result = train(
        config(elsewhere, "moved", resume_from=str(own_store), workers=1), say=said.append
    )
    assert result.state == "done"
    assert trained == list(range(2, STEPS + 1))
    assert f"resuming at step 1 of {STEPS}" in said
    assert weights_hash(elsewhere, "moved") == uninterrupted
    assert tree(own_store) == before, "the first store is only read"
    assert read(elsewhere, "moved", "status.json")["state"] == "done"
    assert result.log[0]["step"] == 1, "the log came along"


def test_the_other_store_is_not_asked_once_there_is_more_here(store, own_store, tmp_path, at_step):
    train_quietly(config(own_store, "moved", max_minutes=0.0))
    elsewhere = config(tmp_path / "elsewhere", "moved", resume_from=str(own_store))
    trained = at_step()
    for _ in range(3):
        train_quietly(TrainConfig(**{**vars(elsewhere), "max_minutes": 0.0}))
    assert trained == [2, 3, 4]


# Two sessions at once.


def test_a_run_that_is_being_trained_is_refused(store, start, monkeypatch):
    first = start(config(store, "taken", epochs=300), lease_seconds=6.0)
    first.wait_for_checkpoint(newer_than=0)
    monkeypatch.setattr(train_job, "acquire", functools.partial(train_job.acquire, life=6.0))
    with pytest.raises(RelayError, match=r"'taken' is being trained by .*process .*TAKE_OVER"):
        train_quietly(config(store, "taken", epochs=300))
    assert first.wait_for_checkpoint(newer_than=max(checkpoints(store, "taken")))


def test_taking_over_stops_the_other_session(store, start, short_waits):
    first = start(config(store, "shared", epochs=300), lease_seconds=3.0)
    reached = first.wait_for_checkpoint(newer_than=3)
    said = []
    result = train(
        config(store, "shared", epochs=300, take_over=True, max_minutes=0.0), say=said.append
    )
    assert any(line.startswith("run 'shared': taken over from") for line in said)
    assert (result.state, result.step > reached) == ("paused", True)
    code, output = first.wait()
    assert code == 0
    assert re.search(rf"This session stopped at .*taken over by .*process {os.getpid()}\)", output)
    assert "Traceback" not in output
    status = read(store, "shared", "status.json")
    assert status["step"] == result.step == max(checkpoints(store, "shared"))
    assert "MAX_MINUTES" in status["reason"], "the first one wrote no more"
    assert read(store, "shared", "lease.json")["pid"] == os.getpid()


# A store that goes away.


def test_the_store_goes_away_and_comes_back(own_store, uninterrupted, short_waits, at_step):
    away, said = own_store.with_name("away"), []
    at_step({5: lambda: own_store.rename(away), 11: lambda: away.rename(own_store)})
    result = train(config(own_store, "unplugged", checkpoint_minutes=0.0), say=said.append)
    assert (result.state, result.step) == ("done", STEPS)
    assert weights_hash(own_store, "unplugged") == uninterrupted
    (trouble,) = (line for line in said if "Training goes on" in line)
    assert str(own_store) in trouble, "whatever was being done just then"
    assert "the store is back, and has everything again" in said
    assert checkpoints(own_store, "unplugged") == [STEPS - 1, STEPS]
    assert not list(unsent(own_store, "unplugged").glob("*"))


def unsent(store: Path, run: str) -> Path:
    (folder,) = (Path(os.environ["RELAYDET_CACHE"]) / "unsent").glob(f"{run}-*")
    return folder


@pytest.fixture
def lost(own_store, short_waits, monkeypatch):
    """The store goes away at step 5 and stays away; returns where it is, and what was said."""

    def lose(run: str, at_step) -> Path:
        away = own_store.with_name("away")
        at_step({5: lambda: own_store.rename(away)})
        with monkeypatch.context() as patch:
            patch.setattr(session, "FINISH_SECONDS", 0.3)
            with pytest.raises(StoreError) as caught:
                train_quietly(config(own_store, run, checkpoint_minutes=0.0))
        assert not own_store.exists(), "nothing was written where it had been"
        assert str(caught.value).startswith(f"Run {run!r} stopped at step {STEPS}")
        assert str(unsent(own_store, run)) in str(caught.value)
        assert "run again on this machine" in str(caught.value)
        return away

    return lose


def test_a_store_that_stays_away_costs_no_step_on_this_machine(
    own_store, uninterrupted, lost, at_step
):
    lost("gone", at_step).rename(own_store)
    assert max(checkpoints(own_store, "gone")) <= 5
    trained, said = at_step(), []
    assert train(config(own_store, "gone"), say=said.append).state == "done"
    assert trained == []
    assert any(line.startswith(f"going on from {unsent(own_store, 'gone')}") for line in said)
    assert weights_hash(own_store, "gone") == uninterrupted
    assert max(checkpoints(own_store, "gone")) == STEPS
    assert not list(unsent(own_store, "gone").glob("*")), "it is in the store now"


def test_a_run_that_was_deleted_in_the_store_is_not_revived_from_this_machine(
    own_store, uninterrupted, lost, at_step, monkeypatch
):
    undisturbed = steps.train_steps
    lost("formatted", at_step).rename(own_store)
    monkeypatch.setattr(steps, "train_steps", undisturbed)
    shutil.rmtree(own_store / "runs")
    kept, trained, said = unsent(own_store, "formatted"), at_step(), []
    assert train(config(own_store, "formatted"), say=said.append).state == "done"
    assert trained == [*range(1, STEPS + 1)]
    assert weights_hash(own_store, "formatted") == uninterrupted
    (warning,) = (line for line in said if line.startswith("WARNING: run 'formatted' is not in"))
    aside = kept.with_name(f"{kept.name}.1")
    assert str(aside) in warning
    assert list(aside.glob("*/runs/formatted/checkpoints/step-*.json")), "nothing was deleted"


@pytest.mark.parametrize(
    ("file", "left"),
    [
        pytest.param("config.json", b"", id="config.json with 0 bytes"),
        pytest.param("config.json", b'{"run": "dama', id="half config.json"),
        pytest.param("status.json", b"", id="status.json with 0 bytes"),
        pytest.param("log.jsonl", b'{"step": 1', id="half log.jsonl"),
        pytest.param("best.json", b"", id="best.json with 0 bytes"),
    ],
)
def test_a_small_file_that_is_torn_costs_nothing(store, uninterrupted, file, left):
    """Drive leaves 0 bytes of what it had not uploaded when its runtime went away."""
    run = f"torn-{file}-{len(left)}"
    train_quietly(config(store, run, max_minutes=0.0))
    (store / "runs" / run / file).write_bytes(left)
    said = []
    unset = {"batch_size": 8, "image_size": None, "epochs": None}  # a notebook's defaults
    result = train(config(store, run, **unset), say=said.append)
    assert (result.state, weights_hash(store, run)) == ("done", uninterrupted)
    if file in ("config.json", "status.json"):
        assert any(f"{file}: damaged" in line for line in said)


def test_a_stop_is_obeyed_while_the_checkpoint_is_read(store, monkeypatch):
    """A mount that does not answer holds neither the session nor the lease."""
    asked, hanging = StopRequest(), threading.Event()

    def find_start(*_):
        asked.ask("stopped by SIGTERM")
        hanging.wait()

    with monkeypatch.context() as patch:
        patch.setattr(stopping, "OBEY_SECONDS", 0.1)
        patch.setattr(train_job, "find_start", find_start)
        with pytest.raises(StopError, match=r"checkpoints of .*unread.* ended .stopped by SIGTERM"):
            train_job.train_here(config(store, "unread"), say=lambda _: None, stop=asked)
    hanging.set()
    result = train(config(store, "unread", max_minutes=0.0), say=lambda _: None, patient=False)
    assert (result.state, result.step) == ("paused", 1)


def test_a_run_without_its_config_is_still_the_same_run(store, uninterrupted):
    train_quietly(config(store, "nameless", max_minutes=0.0))
    (store / "runs/nameless/config.json").unlink()
    train_quietly(config(store, "nameless", epochs=None))
    assert weights_hash(store, "nameless") == uninterrupted


@pytest.mark.parametrize("left", [None, b"", b"torn"], ids=["gone", "0 bytes", "torn"])
def test_a_finished_run_whose_weights_are_not_whole_exports_them_again(
    store, uninterrupted, at_step, left
):
    folder, trained = store / "runs/whole", at_step()
    weights = folder / "model.safetensors"
    weights.unlink() if left is None else weights.write_bytes(left)
    assert train_quietly(config(store, "whole")).state == "done"
    assert trained == []
    assert weights_hash(store, "whole") == uninterrupted
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == uninterrupted


def test_an_image_that_cannot_be_read_costs_no_step(own_store, uninterrupted, tmp_path, at_step):
    images = json.loads((own_store / "datasets/tiny/annotations.json").read_text())["info"]
    street = Path(images["sources"]["street"]["images"])
    moved = tmp_path / "street"
    shutil.copytree(street, moved)
    trained = at_step({6: lambda: shutil.rmtree(moved)})
    there = config(own_store, "hurt", workers=0, images=(f"street={moved}",))
    with pytest.raises(RelayError, match="cannot be read"):
        train_quietly(there)
    status = msgspec.json.decode((own_store / "runs/hurt/status.json").read_bytes())
    assert (status["state"], status["step"]) == ("failed", trained[-1])
    shutil.copytree(street, moved)
    before = len(trained)
    train_quietly(there)
    assert trained[before] == status["step"] + 1, "it goes on right there"
    assert weights_hash(own_store, "hurt") == uninterrupted


def fails_once(monkeypatch, module, name: str, call: int, error: BaseException, late: bool) -> None:
    """Let a function fail at one call, before or after what it does."""
    original, calls = getattr(module, name), []

    def act(*given, **more):
        calls.append(1)
        if len(calls) == call and not late:
            raise error
        result = original(*given, **more)
        if len(calls) == call:
            raise error
        return result

    monkeypatch.setattr(module, name, act)


@pytest.mark.parametrize(
    ("name", "error", "late", "saved"),
    [
        pytest.param("_update", RuntimeError("half done"), True, 5, id="a step half applied"),
        pytest.param("_require_finite", KeyError("odd"), False, 6, id="after a backward pass"),
        pytest.param("learning_rate", MemoryError(), False, 6, id="before a forward pass"),
        pytest.param("learning_rate", KeyboardInterrupt(), False, 6, id="interrupted"),
    ],
)
def test_whatever_ends_a_session_the_last_whole_step_is_saved(
    store, uninterrupted, monkeypatch, request, name, error, late, saved
):
    """Step 7 fails; the norms of this model train, and a forward pass has changed them."""
    run = f"ended-{request.node.callspec.id.replace(' ', '-')}"
    with monkeypatch.context() as patch:
        fails_once(patch, loop, name, 7, error, late)
        with pytest.raises(type(error)):
            train_quietly(config(store, run))
    assert max(checkpoints(store, run)) == saved
    status = read(store, run, "status.json")
    assert status["state"] == ("paused" if isinstance(error, KeyboardInterrupt) else "failed")
    assert status["step"] == 6
    assert status["reason"]
    assert train_quietly(config(store, run)).state == "done"
    assert weights_hash(store, run) == uninterrupted


def test_an_error_between_update_and_count_saves_the_step_that_was_taken(
    store, uninterrupted, at_step
):
    def fail() -> None:
        raise AssertionError("odd")

    actions = {6: fail}
    at_step(actions)
    with pytest.raises(AssertionError):
        train_quietly(config(store, "uncounted"))
    assert max(checkpoints(store, "uncounted")) == 6
    actions.clear()
    assert train_quietly(config(store, "uncounted")).state == "done"
    assert weights_hash(store, "uncounted") == uninterrupted


def test_a_stop_ends_the_wait_for_an_image_and_the_next_call_goes_on(
    store, uninterrupted, monkeypatch
):
    stop, hanging = StopRequest(), threading.Event()
    original, reads = ImageFolder.read, []

    def read_image(images: ImageFolder, name: str) -> bytes:
        reads.append(name)
        if len(reads) == 5 * BATCH + 2:
            stop.ask("stopped by SIGTERM")
            hanging.wait()
        return original(images, name)

    monkeypatch.setattr(workers, "OBEY_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "read", read_image)
        result = train_job.train_here(config(store, "waiting"), say=lambda _: None, stop=stop)
    hanging.set()
    assert (result.state, result.reason, result.step) == ("paused", "stopped by SIGTERM", 5)
    assert max(checkpoints(store, "waiting")) == 5
    assert train_quietly(config(store, "waiting")).state == "done"
    assert weights_hash(store, "waiting") == uninterrupted


class BrokenBar:
    """A screen that is gone."""

    def __enter__(self) -> BrokenBar:
        return self

    def __exit__(self, *_error: object) -> None:
        raise BrokenPipeError

    def update(self) -> None:
        raise BrokenPipeError

    def set_postfix(self, **_values: object) -> None:
        raise BrokenPipeError


def test_a_bar_that_cannot_be_shown_ends_nothing(store, uninterrupted):
    told = config(store, "unseen")
    train_job.train_here(told, say=lambda _: None, open_bar=lambda *_: BrokenBar())
    assert weights_hash(store, "unseen") == uninterrupted
