"""Does a step run in each precision, is its loss finite, and where does it wait for the GPU?

python benchmarks/gpu_smoke.py
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch
from speed_sides import Side, Task, ours, reference
from train_speed import load

from relaydet.runtime.device import choose_device, plainly

STEPS = 3
MOST = 25
"""Places that are named."""


def waits(side: Side) -> Counter[str]:
    """Where a step waits for the GPU, and how often."""
    for _ in range(2):
        next(side.steps)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            next(side.steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(w.filename).parent.name}/{Path(w.filename).name}:{w.lineno}" for w in seen
    )


def in_each_precision(task: Task, device: str) -> bool:
    """Print the losses of a few steps; whether all are finite."""
    cuda, well = torch.device(device).type == "cuda", True
    for precision in ("auto", "float32", *(["float16"] if cuda else [])):
        side = ours(task, choose_device(device, precision), precision)
        for _ in range(STEPS):
            step = next(side.steps)
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in step.losses.items())
        well &= math.isfinite(step.loss)
        print(f"{precision}: {losses}", flush=True)
    return well


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--model", default="resnet50_fpn")
    asked.add_argument("--size", type=int, default=800)
    asked.add_argument("--batch", type=int, default=8)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, photos, categories = load(Path(folder))
        task = Task(given.model, given.size, given.batch, 1, samples, photos, categories)
        well = in_each_precision(task, given.device)
        if torch.device(given.device).type == "cuda":
            plain = plainly(choose_device(given.device, "float32"))
            for side in (
                ours(task, choose_device(given.device), "relaydet"),
                reference(task, plain, amp=True),
            ):
                found = waits(side)
                print(f"{side.name}: {sum(found.values())} waits a step of {given.batch} images")
                for place, count in found.most_common(MOST):
                    print(f"  {count} {place}")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
