"""Two ranks of one thread beside one process of two threads: the same optimizer batch, in turn."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile

import torch

from relaydet.config import BenchConfig
from relaydet.jobs.bench import bench

MODELS = (("small", 128), ("mobilenet_v3_large_320_fpn", 320))
PRECISIONS = ("float32", "bfloat16")
BATCH, STEPS, ROUNDS = 8, 6, 2


def images_per_second(
    model: str, image_size: int, ranks: int, folder: str, precision: str
) -> float:
    """By the median step of one measurement."""
    config = BenchConfig(
        batch_sizes=(BATCH,),
        model=model,
        image_size=image_size,
        steps=STEPS,
        store=folder,
        gpus=ranks,
        device="cpu",
        precision=precision,
    )
    (row,) = bench(config, say=lambda _line: None).rows
    return row["images_per_second"]


def main() -> None:
    cores = os.cpu_count() or 1
    torch.set_num_threads(2)
    print(f"batch {BATCH}, {STEPS} steps, {ROUNDS} rounds in turn, {cores} cores")
    print(f"{'model':<37} {'1 x 2 threads':>14} {'2 x 1 thread':>14}  ratio   (images/s)")
    for (model, image_size), precision in itertools.product(MODELS, PRECISIONS):
        with tempfile.TemporaryDirectory() as folder:
            pairs = [
                [images_per_second(model, image_size, ranks, folder, precision) for ranks in (1, 2)]
                for _ in range(ROUNDS)
            ]
        one, two = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{model:<27}{precision:<10} {one:14.2f} {two:14.2f}  {two / one:.2f}", flush=True)


if __name__ == "__main__":
    main()
