"""What a training step of resnet50_fpn at 800 px keeps, with RECOMPUTE and without, and its price.

On a GPU: the most that was allocated in a step. On a CPU, which has no such counter: the bytes of
all tensors that the forward pass keeps for the backward pass (each storage once), and of weights,
gradients and momentum; what a kernel needs for a moment is not in it.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from speed_sides import Task, ours
from step_parts import wait
from train_speed import load, table

from relaydet.model import build_model
from relaydet.runtime.device import Device, choose_device
from relaydet.runtime.memory import give_back
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.recompute import recompute_backbone
from relaydet.training.restore import Restored, equip

MODEL, SIZE = "resnet50_fpn", 800
HEAD = ("images", "precision", "recompute", "kept for backward, GB", "in all, GB", "s a step")


def trained(task: Task, device: Device, recompute: bool) -> Restored:
    built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
    if recompute:
        recompute_backbone(built.model)
    return Restored(built, *equip(built, device), MicroBatch(task.batch_size))


def kept_in(steps: Iterator[Any], model: torch.nn.Module) -> int:
    """Bytes that the forward pass of one step keeps, parameters apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        next(steps)
    return sum(kept.values())


def measure(task: Task, device: Device, recompute: bool, rounds: int) -> list[str]:
    run = trained(task, device, recompute)
    side = ours(task, device, "", run)
    cuda = device.device.type == "cuda"
    next(side.steps)
    kept = kept_in(side.steps, run.built.model)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device.device)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        next(side.steps)
        wait(device.device)
        seconds.append(time.perf_counter() - began)
    parameters = list(run.built.model.parameters())
    weights = sum(4 * p.numel() for p in parameters)
    learnt = sum(4 * p.numel() for p in parameters if p.requires_grad)
    whole = torch.cuda.max_memory_allocated(device.device) if cuda else kept + weights + 2 * learnt
    del side, run
    give_back(device.device)
    return [
        str(task.batch_size),
        str(device.dtype).removeprefix("torch."),
        "yes" if recompute else "no",
        f"{kept / 1e9:.2f}",
        f"{whole / 1e9:.2f}",
        f"{statistics.median(seconds):.2f}",
    ]


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--batches", type=int, nargs="+", default=[2])
    asked.add_argument("--precisions", nargs="+", default=["float32", "auto"])
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        samples, photos, categories = load(Path(folder))
        for batch in given.batches:
            task = Task(MODEL, SIZE, batch, 1, samples, photos, categories)
            for precision in given.precisions:
                device = choose_device(given.device, precision)
                for recompute in (False, True):
                    rows.append(measure(task, device, recompute, given.rounds))
                    print(" | ".join(rows[-1]), flush=True)
    print(
        f"{datetime.date.today()}, {device.name}, {os.cpu_count()} cores, torch"
        f" {torch.__version__}; {MODEL}, short side {SIZE}"
    )
    print(table(rows, HEAD))


if __name__ == "__main__":
    main()
