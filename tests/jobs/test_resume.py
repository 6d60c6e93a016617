"""A run that is killed, however often, ends with the weights of one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from relaydet.config import MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RelayError
from relaydet.jobs.merge import merge
from relaydet.jobs.train import train

EPOCHS, BATCH = 3, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a tiny dataset in it."""
    folder = tmp_path_factory.mktemp("store")
    street, search, _ = write_demo(folder / "demo_scenes", sizes=(14, 6, 2))
    merge(MergeConfig("tiny", (street, search), ("person",), str(folder)), say=lambda _: None)
    return folder


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
            "workers": 2,
            **changes,
        }
    )


def train_quietly(config: TrainConfig):
    return train(config, say=lambda _: None)


def weights_hash(store: Path, run: str) -> str:
    facts = msgspec.json.decode((store / "runs" / run / "model.json").read_bytes())
    return facts["sha256"]


@pytest.fixture(scope="module")
def uninterrupted(store):
    """Hash of the weights of a run in one piece."""
    assert train_quietly(config(store, "whole")).state == "done"
    return weights_hash(store, "whole")


def start(config: TrainConfig) -> subprocess.Popen:
    """Train in a process of its own, saving after every step."""
    flags = [
        "--run", config.run, "--dataset", config.dataset, "--store", config.store,
        "--model", config.model, "--epochs", str(config.epochs),
        "--batch-size", str(config.batch_size), "--image-size", str(config.image_size),
        "--device", "cpu", "--workers", str(config.workers), "--checkpoint-minutes", "0.001",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "relaydet.cli", "train", *flags],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_checkpoint(store: Path, run: str, process: subprocess.Popen, newer_than: int) -> int:
    """Step of the first checkpoint beyond a step; 0 once the process has ended."""
    folder = store / "runs" / run / "checkpoints"
    while process.poll() is None:
        steps = [int(path.stem.split("-")[1]) for path in folder.glob("step-*.json")]
        if max(steps, default=0) > newer_than:
            return max(steps)
        time.sleep(0.02)
    return 0


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_instants_changes_no_bit(store, uninterrupted, seed):
    chance, run, step, kills = random.Random(seed), f"killed-{seed}", 0, 0
    for _ in range(3):
        process = start(config(store, run))
        step = wait_for_checkpoint(store, run, process, newer_than=step)
        time.sleep(chance.uniform(0, 0.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 0
    result = train_quietly(config(store, run))
    assert result.state == "done"
    assert weights_hash(store, run) == uninterrupted


@pytest.mark.parametrize("workers", [0, 1])
def test_worker_count_changes_no_bit(store, uninterrupted, workers):
    train_quietly(config(store, f"workers-{workers}", workers=workers))
    assert weights_hash(store, f"workers-{workers}") == uninterrupted


def test_sigterm_saves_and_pauses_and_the_next_call_goes_on(store, uninterrupted):
    process = start(config(store, "paused"))
    reached = wait_for_checkpoint(store, "paused", process, newer_than=0)
    process.terminate()
    assert process.wait() == 0
    status = msgspec.json.decode((store / "runs/paused/status.json").read_bytes())
    assert status["state"] == "paused"
    assert status["reason"] == "stopped by SIGTERM"
    assert status["step"] >= reached
    assert train_quietly(config(store, "paused")).state == "done"
    assert weights_hash(store, "paused") == uninterrupted


def test_max_minutes_pauses_and_says_why(store):
    result = train_quietly(config(store, "short", max_minutes=0.0))
    assert (result.state, result.step) == ("paused", 1)
    assert "MAX_MINUTES" in result.reason
    assert "Run it again" in str(result)


def test_log_has_each_step_once_after_a_resume(store):
    changes = {"epochs": 6}
    train_quietly(config(store, "logged", max_minutes=0.0, **changes))
    result = train_quietly(config(store, "logged", **changes))
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

    monkeypatch.setattr("relaydet.jobs.train.train_steps", fail)
    with pytest.raises(RuntimeError):
        train_quietly(config(store, "broken"))
    status = msgspec.json.decode((store / "runs/broken/status.json").read_bytes())
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
