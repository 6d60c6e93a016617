"""What checkpoints cost: training with one a minute beside training with none, and a resume.

Windows of training steps with and without a save alternate in one process, on the same batches, so
that the machine's moods reach both. A start is a process of its own: from its first instruction to
its first optimizer step, new and resumed in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from relaydet.config import MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.data.loader import Sample, training_batches, training_samples
from relaydet.data.order import BatchPlan, Share
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.jobs.train import train
from relaydet.model import build_model, recipe_of
from relaydet.runtime.device import Device, choose_device
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import Keep, Lineage
from relaydet.training.loop import Learner, build_optimizer, build_scaler, train_steps
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.sampling import key_samplers
from relaydet.training.saver import Saver
from relaydet.training.schedule import Schedule

MODEL, BATCH = "small", 8
Batch = tuple[Share, list[Sample]]

WINDOW_SECONDS = 8.0
"""Short, so that a window and its neighbour meet the machine in the same mood."""
INTERVAL_SECONDS = 60.0
"""The interval in question: a save costs so many seconds of every such one."""
PAIRS = int(os.environ.get("PAIRS", "12"))
STARTS = 3
# Runs in a process of its own: the instant of the first step, beside that of the process's start.
FIRST_STEP = """
import json, sys, time
began = time.time()
from relaydet.training import steps as module
from relaydet.config import TrainConfig
from relaydet.jobs.train import train
train_steps = module.train_steps
def told(*args, **more):
    for step in train_steps(*args, **more):
        print("first", time.time() - began, flush=True)
        yield step
module.train_steps = told
train(TrainConfig(**json.loads(sys.argv[1])))
"""


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()
    device = choose_device(given.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = LocalStore(folder)
        street, search, _ = write_demo(folder / "scenes", sizes=(120, 40, 2))
        merge(MergeConfig("set", (street, search), ("person",), name), say=lambda _: None)
        print(
            f"{device.name}, {os.cpu_count()} cores, torch {torch.__version__},"
            f" {torch.get_num_threads()} threads"
        )
        windows(store, folder, device)
        sizes(folder)
        starts(name, given.device)


def windows(store: LocalStore, folder: Path, device: Device) -> None:
    """Steps per second with a save in the window, and without, in turn."""
    steps = _steps(store, device)
    state = next(steps)
    count = 0
    began = time.monotonic()
    while time.monotonic() - began < WINDOW_SECONDS:
        next(steps)
        count += 1
    took: dict[bool, list[float]] = {False: [], True: []}
    with _saver(folder / "saved") as saver:
        for turn in range(2 * PAIRS):
            saving = turn % 2 == 1
            began = time.monotonic()
            if saving:
                saver.save(turn, state(), {})
            for _ in range(count):
                next(steps)
            took[saving].append(time.monotonic() - began)
            saver.finish(60)
    lost = [saved - plain for plain, saved in zip(took[False], took[True], strict=True)]
    low, middle, high = statistics.quantiles(lost, n=4)
    print(f"{MODEL}, batch {BATCH}: {PAIRS} pairs of windows of {count} steps")
    print(f"  without a save  {statistics.median(took[False]):.2f} s")
    print(f"  with one        {statistics.median(took[True]):.2f} s")
    print(f"  a save costs    {middle:.2f} s (quartiles {low:.2f}, {high:.2f})")
    print(f"  of a minute     {middle / INTERVAL_SECONDS:.1%}")
    print(f"  of which training stood still {saver.pack_seconds:.2f} s")


def sizes(folder: Path) -> None:
    """Size and times of one checkpoint of two models, with nothing beside it."""
    print("model            bytes     packed    carried")
    for name in (MODEL, "resnet50_fpn"):
        model = build_model(name, ["person"], "none").model
        optimizer = build_optimizer(model, recipe_of(name))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        with _saver(folder / name) as saver:
            for step in (1, 2):
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                saver.save(step, state, {})
                saver.finish(600)
            size = sum(path.stat().st_size for path in (folder / name).rglob("step-00000002.pt"))
        print(
            f"{name:14} {size / 1e6:7.1f} MB {saver.pack_seconds:7.2f} s"
            f" {saver.carry_seconds:7.2f} s"
        )


def starts(store: str, asked: str) -> None:
    """Seconds from a process's start to its first step: of a new run, and of a resumed one."""
    config = {"dataset": "set", "store": store, "model": MODEL, "device": asked, "epochs": 50}
    train(TrainConfig(run="kept", max_minutes=0.0, **config), say=lambda _: None)
    found: dict[str, list[float]] = {"new": [], "resumed": []}
    for turn in range(STARTS):
        found["new"].append(_seconds_to_first_step({**config, "run": f"new-{turn}"}))
        found["resumed"].append(_seconds_to_first_step({**config, "run": "kept"}))
    for kind, seconds in found.items():
        print(f"process start to first step, {kind:8} {statistics.median(seconds):.2f} s")


def _seconds_to_first_step(config: dict[str, object]) -> float:
    answer = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, json.dumps({**config, "max_minutes": 0.0})],
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in answer.stdout.splitlines() if line.startswith("first"))
    return float(line.split()[1])


@contextmanager
def _saver(folder: Path) -> Iterator[Saver]:
    store = LocalStore(folder / "store")
    saver = Saver(store, "run", folder / "unsent", Lineage(1), lambda: Keep(), say=print)
    try:
        yield saver
    finally:
        saver.close()


def _steps(store: LocalStore, device: Device) -> Iterator[Callable[[], dict[str, object]]]:
    """Optimizer steps for ever, over the same twenty batches; yields what gives the state."""
    saved = load_dataset(store, "set")
    samples = training_samples(saved.dataset, open_sources(saved))
    model = build_model(MODEL, ["person"], "none").model
    model.to(device.device, memory_format=torch.channels_last)
    optimizer = build_optimizer(model.train(), recipe_of(MODEL))
    plan = BatchPlan(0, samples.groups_M(), BATCH, 0, 20)
    read = training_batches(samples, plan, recipe_of(MODEL).augmentation, 1)
    batches = list(zip(plan.shares(), read, strict=True))
    steps = train_steps(
        learner=Learner(model, optimizer, key_samplers(model, 0), device, build_scaler(device)),
        batches=_again(batches),
        schedule=Schedule("cosine", 1e-4, 10**9, 0),
        first_step=0,
        micro_batch=MicroBatch(BATCH),
    )
    for _ in islice(steps, len(batches)):  # warm up: the first steps are slower
        pass
    for _ in steps:
        yield lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _again(batches: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


if __name__ == "__main__":
    main()
