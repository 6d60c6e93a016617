"""Images a second that the loader gives, beside Pillow and torchvision's own dataset class.

All read the same JPEGs from a warm disk, decode them and flip half of them, in turn on one machine.
Real photos (640 x 480 in the median) where ../shared has them, else the demo's scenes.

    python benchmarks/loader_speed.py
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torchvision
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import CocoDetection
from torchvision.transforms import Compose, PILToTensor, RandomHorizontalFlip
from train_speed import SHARED, photos_source

from relaydet.config import MergeConfig, SourceConfig
from relaydet.data.decode import decode
from relaydet.data.images import decode_rgb
from relaydet.data.loader import Samples, training_batches, training_samples
from relaydet.data.order import BatchPlan
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.model import Recipe
from relaydet.storage.local import LocalStore

BATCH = 8
PASSES = 10
WARM_UP = 16
"""Batches: what the workers have ready when the clock starts."""


def zipped(images: Path, file: Path) -> str:
    with zipfile.ZipFile(file, "w") as archive:
        for image in sorted(images.iterdir()):
            archive.write(image, image.name)
    return str(file)


def samples_of(source: SourceConfig, images: str, folder: Path) -> Samples:
    told = replace(source, images=images)
    merge(MergeConfig("photos", (told,), (), str(folder)), say=lambda _: None)
    saved = load_dataset(LocalStore(str(folder)), "photos")
    return training_samples(saved.dataset, open_sources(saved))


def one_process(samples: Samples, decoder: Callable) -> Iterator[list]:
    for _ in range(PASSES):
        for first in range(0, len(samples), BATCH):
            names = samples.file_names[first : first + BATCH]
            pairs = (name.split("/", 1) for name in names)
            yield [decoder(samples.folders[s].read(name), name) for s, name in pairs]


def ours(samples: Samples, workers: int) -> Iterator[list]:
    steps = PASSES * (len(samples) // BATCH)
    plan = BatchPlan(0, samples.groups_M(), BATCH, 0, steps)
    return training_batches(samples, plan, Recipe().augmentation, workers)


def theirs(annotations: str, images: str, workers: int) -> Iterator[tuple]:
    transforms = Compose([PILToTensor(), RandomHorizontalFlip()])
    dataset = CocoDetection(images, annotations, transform=transforms)
    often = ConcatDataset([dataset] * PASSES)
    return iter(DataLoader(often, BATCH, True, num_workers=workers, collate_fn=_as_tuple))


def _as_tuple(batch: list) -> tuple:
    return tuple(zip(*batch, strict=True))


def images_a_second(batches: Iterator[Sequence], size_of: Callable[[Sequence], int]) -> float:
    for _ in range(WARM_UP):
        next(batches)
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += size_of(batch)
    return count / (time.perf_counter() - began)


def measure(folder: Path, rounds: int) -> list[str]:
    """Lines of the table."""
    given = photos_source(folder)
    files = samples_of(given, given.images, folder / "from_folder")
    packed = samples_of(given, zipped(Path(given.images), folder / "photos.zip"), folder / "packed")
    sides: dict[str, Callable[[], tuple[Iterator[Sequence], Callable[[Sequence], int]]]] = {
        "Pillow, decoding alone, 1 process": lambda: (one_process(files, decode_rgb), len),
        "relaydet, decoding alone, 1 process": lambda: (one_process(files, decode), len),
        "torchvision's CocoDetection, 2 workers": lambda: (
            theirs(given.annotations, given.images, 2),
            lambda batch: len(batch[0]),
        ),
        "relaydet, folder, 2 workers": lambda: (ours(files, 2), len),
        "relaydet, zip, 2 workers": lambda: (ours(packed, 2), len),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, start in sides.items():
            rates[name].append(images_a_second(*start()))
    peer = statistics.median(rates["torchvision's CocoDetection, 2 workers"])
    lines = ["| side | images/s | quartiles | x CocoDetection's |", "| --- | ---: | ---: | ---: |"]
    for name, mine in rates.items():
        low, middle, high = statistics.quantiles(mine, n=4)
        lines.append(f"| {name} | {middle:.0f} | {low:.0f}-{high:.0f} | {middle / peer:.2f} |")
    return lines


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    # torchvision says in every process that its decoder is to go.
    warnings.simplefilter("ignore", DeprecationWarning)
    print(
        f"{datetime.date.today()}, {os.cpu_count()} cores, torch {torch.__version__}, torchvision"
        f" {torchvision.__version__}, {'coco128' if SHARED.is_dir() else 'scenes of the demo'}"
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(measure(Path(folder), given.rounds)))


if __name__ == "__main__":
    main()
