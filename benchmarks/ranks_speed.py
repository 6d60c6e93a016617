"""Two ranks of one thread beside one process of two threads: the same optimizer batch.

Both train for as long as it takes, by turns of some seconds: the other one is held meanwhile, in
the middle of its step. So both see the same moods of a machine that has neighbours.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil
import torch

from relaydet.config import BenchConfig
from relaydet.jobs.bench import time_here
from relaydet.training.launch import launch

MODELS = (("small", 128), ("mobilenet_v3_large_320_fpn", 320))
PRECISIONS = ("float32", "bfloat16")
BATCH, WARM_UP = 8, 3
TURN_SECONDS, TURNS = 5.0, 16
PARTS = 6
"""Of the whole time; the ratio in each tells how sure it is."""
ENDLESS = 100_000


@dataclass
class Side:
    """A measurement in processes of its own, and when they were let run."""

    process: subprocess.Popen
    marks: Path
    """A line a look at its bar: the time, and the steps done."""
    turns: list[tuple[float, float]] = field(default_factory=list)

    def hold(self, held: bool) -> None:
        """Stop all its processes where they are, or let them go on."""
        main = psutil.Process(self.process.pid)
        for process in (main, *main.children(recursive=True)):
            process.send_signal(signal.SIGSTOP if held else signal.SIGCONT)

    def steps(self) -> np.ndarray:
        """Each mark's running time in seconds and steps done: [marks, 2]."""
        marks = np.loadtxt(self.marks, ndmin=2)
        begins, ends = np.array(self.turns).T
        ran = np.clip(marks[:, :1], begins, ends) - begins
        return np.column_stack([ran.sum(axis=1), marks[:, 1]])[marks[:, 0] >= begins[0]]


def main() -> None:
    cores = os.cpu_count() or 1
    print(f"batch {BATCH}, {TURNS} turns of {TURN_SECONDS:.0f} s each, {cores} cores")
    print(f"{'model':<37} {'1 x 2 threads':>14} {'2 x 1 thread':>14}  ratio (images/s)")
    for (model, image_size), precision in itertools.product(MODELS, PRECISIONS):
        one, two = by_turns(model, image_size, precision)
        parts = np.sort([rate(two, part) / rate(one, part) for part in range(PARTS)])
        whole = f"{rate(two) / rate(one):.3f} ({parts[0]:.2f} to {parts[-1]:.2f} in {PARTS} parts)"
        print(
            f"{model:<27}{precision:<10} {rate(one):14.2f} {rate(two):14.2f}  {whole}", flush=True
        )


def rate(steps: np.ndarray, part: int | None = None) -> float:
    """Images/s over all the time, or one part of it."""
    if part is not None:
        edges = np.linspace(0, steps[-1, 0], PARTS + 1)
        steps = steps[(steps[:, 0] >= edges[part]) & (steps[:, 0] <= edges[part + 1])]
    seconds, done = steps[-1] - steps[0]
    return BATCH * done / seconds


def by_turns(model: str, image_size: int, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps of one process and of two ranks, as `Side.steps` has them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = []
        for ranks in (1, 2):
            config = BenchConfig(
                batch_sizes=(BATCH,),
                model=model,
                image_size=image_size,
                steps=ENDLESS,
                store=folder,
                gpus=ranks,
                device="cpu",
                precision=precision,
            )
            sides.append(started(config, Path(folder) / f"{ranks}.txt"))
            stack.callback(ended, sides[-1])
            sides[-1].hold(True)
        for side in sides * TURNS:
            begun = time.monotonic()
            side.hold(False)
            time.sleep(TURN_SECONDS)
            side.hold(True)
            side.turns.append((begun, time.monotonic()))
        one, two = (side.steps() for side in sides)
    return one, two


def started(config: BenchConfig, marks: Path) -> Side:
    """A side that has done its first steps."""
    asked = msgspec.json.encode(config).decode()
    with marks.open("w") as file:
        process = subprocess.Popen([sys.executable, __file__, asked], stdout=file)
    while marks.read_text().count("\n") < WARM_UP:
        if process.poll() is not None:
            raise SystemExit(f"a side ended with code {process.returncode}")
        time.sleep(0.1)
    return Side(process, marks)


def ended(side: Side) -> None:
    side.hold(False)
    side.process.terminate()
    side.process.wait()


class Marks:
    """A bar that prints when it moves."""

    n = 0

    def __enter__(self) -> Marks:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, more: int = 1) -> None:
        """So many steps more are done."""
        self.n += more
        print(time.monotonic(), self.n, flush=True)

    def set_postfix(self, *_args: object, **_values: object) -> None:
        """Not shown."""

    def close(self) -> None:
        """Nothing is open."""


def train(config: BenchConfig) -> None:
    """One side, until somebody ends it."""
    if config.gpus == 1:
        torch.set_num_threads(2)
        time_here(config, mute, lambda *_args: Marks())
    else:
        asked = {"job": "bench", "config": config}
        launch(asked, "bench", int(config.gpus), 0, mute, lambda *_args: Marks())


def mute(_line: str) -> None:
    """What a side says is not shown."""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(msgspec.json.decode(sys.argv[1], type=BenchConfig))
    else:
        main()
