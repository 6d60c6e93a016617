"""Images a second that the loader gives by number of processes, with pinned memory and without.

python benchmarks/gpu_loader.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

from train_speed import load

from relaydet.data.loader import Samples, training_batches
from relaydet.data.order import BatchPlan
from relaydet.model import Recipe
from relaydet.runtime.device import choose_device

WARM_UP = 8
"""Batches that the processes have ready when the clock starts."""


def rate(samples: Samples, batch: int, workers: int, pin: bool, steps: int) -> float:
    """Images a second."""
    plan = BatchPlan(0, samples.groups_M(), batch, 0, WARM_UP + steps)
    batches = training_batches(samples, plan, Recipe().augmentation, workers, pin)
    for _ in islice(batches, WARM_UP):
        pass
    began = time.perf_counter()
    images = sum(len(one) for one in batches)
    return images / (time.perf_counter() - began)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    given = asked.parse_args()
    cuda = choose_device(given.device).device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        samples, *_ = load(Path(folder))
        for workers in given.workers:
            for pin in (False, True) if cuda else (False,):
                steps = 40 * workers if cuda else 8
                found = rate(samples, given.batch, workers, pin, steps)
                print(f"{workers} processes, pinned {pin}: {found:.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
