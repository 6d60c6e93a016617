"""Our training step beside torchvision's reference loop, in turn on one machine.

Both train the same detector from the same weights on the same images in the same batches, A B A B,
from files on disk to the optimizer's step; so does detectron2 where it is installed. `--parts` also
says where the time of each goes; `--alone` takes our speed-ups one by one instead of the peers.

Utilisation: the model's floating-point operations (torch's counter, forward and backward) over what
the chip reaches in a large product, matrix or convolution, of the same precision.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from reference_loop import Photo, decode, transform
from speed_sides import Side, Task, held, sides_alone, sides_of
from step_parts import clocked, wait
from torch.nn.functional import conv2d

from relaydet.config import MergeConfig, SourceConfig
from relaydet.data.demo import write_demo
from relaydet.data.loader import Samples, training_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.model import build_model
from relaydet.runtime.device import Device, choose_device
from relaydet.runtime.memory import give_back
from relaydet.storage.local import LocalStore

SHARED = Path(
    os.environ.get("PHOTOS") or Path(__file__).resolve().parents[2] / "shared" / "data" / "coco128"
)
"""Photos in COCO's layout; PHOTOS names another folder."""
MODELS = ("resnet50_fpn", "mobilenet_v3_large_320_fpn")
PARTS = ("transfer", "forward", "losses", "backward", "optimizer")
MATRIX = 4096


@dataclass(frozen=True)
class Measured:
    """A side's steps, in seconds."""

    name: str
    seconds: list[float]
    peak: int | None
    """Bytes on the GPU at most, its own alone."""

    def row(self, task: Task, work: float | None, rate: float, peer: float) -> list[str]:
        """A line of the table; work: operations an image, rate: the chip's a second."""
        low, median, high = np.percentile(self.seconds, [25, 50, 75]).tolist()
        used = f"{100 * work * task.batch_size / median / rate:.0f} %" if work else "-"
        return [
            *(task.model, str(task.image_size), str(task.batch_size), self.name),
            *(f"{median:.3f}", f"{low:.3f}-{high:.3f}", f"{task.batch_size / median:.2f}"),
            *(f"{peer / median:.2f}", used, f"{self.peak / 1e9:.2f}" if self.peak else "-"),
        ]


HEAD = (
    *("model", "px", "batch", "side", "s a step", "quartiles", "images/s", "x the first's"),
    *("of the chip", "GB"),
)


def take_turns(sides: Sequence[Side], rounds: int, warm_up: int) -> list[Measured]:
    """A B A B; the first rounds are not counted."""
    seconds: list[list[float]] = [[] for _ in sides]
    peaks = [0] * len(sides)
    for turn in range(warm_up + rounds):
        for number, side in enumerate(sides):
            device = side.device.device
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            others = held(side.device) - side.bytes_held
            began = time.perf_counter()
            next(side.steps)
            wait(device)
            if turn >= warm_up:
                seconds[number].append(time.perf_counter() - began)
            if device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(device) - others
                peaks[number] = max(peaks[number], peak)
    return [
        Measured(side.name, taken, peak or None)
        for side, taken, peak in zip(sides, seconds, peaks, strict=True)
    ]


def parts_of(side: Side, rounds: int) -> dict[str, float]:
    """Seconds of a step by part; the device is waited for around each, so the sum is a bit more."""
    with clocked(side.places, side.device.device) as seconds:
        began = time.perf_counter()
        for _ in range(rounds):
            next(side.steps)
        whole = time.perf_counter() - began
    parts = {part: seconds[part] / rounds for part in PARTS}
    return {**parts, "idle": whole / rounds - sum(parts.values())}


def loading(side: Side, task: Task) -> dict[str, float]:
    """Seconds that one batch takes in one process, by part."""
    numbers = list(range(min(64, len(task.photos))))
    ratio = task.batch_size / len(numbers)
    return {part: taken * ratio for part, taken in side.loading(numbers).items()}


def operations(task: Task, device: Device) -> float | None:
    """Floating-point operations of one image's step; None where this torch cannot count them."""
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return None
    built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
    built.model.to(device.device).train()
    batch = task.batches()[0]
    pairs = [transform(decode(task.photos[i].path), task.photos[i]) for i in batch]
    images = [image.to(device.device) for image, _ in pairs]
    targets = [{k: v.to(device.device) for k, v in target.items()} for _, target in pairs]
    with FlopCounterMode(display=False) as counter:
        sum(built.model(images, targets).values()).backward()
    return counter.get_total_flops() / len(batch)


def chip_rate(device: Device) -> float:
    """Operations a second of large products, the best of them: no library has all chips' fastest.

    In float32 on AMD's CPUs, MKL's matrix product reaches 0.4 of what oneDNN's convolution does.
    """
    kind = {"device": device.device, "dtype": device.dtype}
    a = torch.randn(MATRIX, MATRIX, **kind)
    images = torch.randn(8, 256, 40, 56, **kind).to(memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3, **kind).to(memory_format=torch.channels_last)
    products = (
        (lambda: a @ a, 2 * MATRIX**3),
        (lambda: conv2d(images, kernels, padding=1), 2 * images.numel() * kernels[:, 0].numel()),
    )
    return max(work / _fastest(product, device) for product, work in products)


def _fastest(product: Callable[[], torch.Tensor], device: Device) -> float:
    taken = []
    for _ in range(6):
        wait(device.device)
        began = time.perf_counter()
        product()
        wait(device.device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def photos_source(folder: Path) -> SourceConfig:
    """Real photos where they are at hand, else the demo's scenes."""
    if SHARED.is_dir():
        annotations = SHARED / "annotations" / "instances_train2017.json"
        return SourceConfig("photos", "coco", str(annotations), str(SHARED / "train2017"))
    street, _, _ = write_demo(folder / "scenes", sizes=(128, 4, 2))
    return street


def load(folder: Path) -> tuple[Samples, list[Photo], list[str]]:
    """Those photos, merged."""
    source = photos_source(folder)
    merge(MergeConfig("photos", (source,), (), str(folder)), say=_quiet)
    saved = load_dataset(LocalStore(str(folder)), "photos")
    images = Path(saved.locations[source.name])
    samples = training_samples(saved.dataset, open_sources(saved))
    rows = [slice(a, b) for a, b in zip(samples.starts, samples.starts[1:], strict=False)]
    photos = [
        Photo(
            images / name.split("/", 1)[1],
            torch.from_numpy(samples.boxes_N4[row]),
            torch.from_numpy(samples.labels_N[row]),
        )
        for name, row in zip(samples.file_names, rows, strict=True)
    ]
    return samples, photos, [category.name for category in saved.dataset.categories]


def _quiet(_line: str) -> None:
    pass


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--models", nargs="+", default=None)
    asked.add_argument("--size", type=int, default=None, help="short side in pixels")
    asked.add_argument("--batches", type=int, nargs="+", default=None)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--device", default="auto")
    asked.add_argument("--workers", type=int, default=None)
    asked.add_argument("--parts", action="store_true", help="say where the time goes")
    asked.add_argument("--alone", action="store_true", help="each of our speed-ups by itself")
    asked.add_argument("--out", type=Path, default=None, help="a Markdown file to write")
    given = asked.parse_args()
    device = choose_device(given.device)
    cuda = device.device.type == "cuda"
    models = given.models or (MODELS[:1] if cuda else MODELS)
    size, sizes = (
        given.size or (800 if cuda else 320),
        given.batches or ([2, 8, 16] if cuda else [8]),
    )
    workers = given.workers if given.workers is not None else (4 if cuda else 1)
    with tempfile.TemporaryDirectory() as folder:
        samples, photos, categories = load(Path(folder))
        text = [heading(device, len(photos), workers)]
        for model in models:
            for batch_size in sizes:
                task = Task(model, size, batch_size, workers, samples, photos, categories)
                text += compare(task, given)
    if given.out:
        given.out.write_text("\n\n".join(text) + "\n", encoding="utf-8")
        print(f"\nWritten to {given.out}")


def commit() -> str:
    """The commit that is measured: as COMMIT says it, else as git does; "unknown" without both."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    try:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return "unknown"  # a machine without git
    return done.stdout.strip() or "unknown"


def heading(device: Device, photos: int, workers: int) -> str:
    text = (
        f"{datetime.date.today()}, commit {commit()}, {device.name}, {os.cpu_count()} cores, torch"
        f" {torch.__version__}, torchvision {torchvision.__version__}; {photos} images,"
        f" {workers} loader processes."
    )
    print(text, flush=True)
    return text


def compare(task: Task, given: argparse.Namespace) -> list[str]:
    """The tables of one model and batch size."""
    sides = (sides_alone if given.alone else sides_of)(task, given.device)
    measured = take_turns(sides, given.rounds, warm_up=2)
    work = operations(task, sides[0].device)
    peer = float(np.median(measured[0].seconds))
    rows = [
        one.row(task, work, chip_rate(side.device), peer)
        for side, one in zip(sides, measured, strict=True)
    ]
    text = [table(rows, HEAD)]
    print(text[-1], flush=True)
    if given.parts:
        head = ["side", "decode", "augment", "collate", *PARTS, "idle"]
        lines = []
        for side in sides:
            parts = {**loading(side, task), **parts_of(side, max(2, given.rounds // 2))}
            lines.append([side.name, *(f"{parts[part]:.3f}" for part in head[1:])])
        text.append(table(lines, head))
        print(text[-1], flush=True)
    device = sides[0].device.device
    del sides
    give_back(device)
    return text


if __name__ == "__main__":
    main()
