"""Inference beside torchvision's plain loop, in turn on one machine, with the same detections.

The plain loop is what a user writes: the model in evaluation, one image at a time, no gradients,
float32. Ours is `predict`: batches of like shape, norms folded into the convolutions, channels
last. Both run on the device given. Images are decoded before the clock runs. Real photos where
../shared has them, else the demo's scenes. `--size`, `--images`, `--models` and `--turns` make it
shorter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from train_speed import SHARED

from relaydet.data.demo import write_demo
from relaydet.data.loader import Samples
from relaydet.evaluation.predict import predict
from relaydet.model import build_model
from relaydet.runtime.device import Device, choose_device

MODELS = ("resnet50_fpn", "mobilenet_v3_large_320_fpn")


def load(count: int, folder: Path) -> list[np.ndarray]:
    """So many photos, decoded."""
    paths = sorted(SHARED.rglob("*.jpg"))
    if not paths:
        write_demo(folder, sizes=(count, 4, 2))
        paths = sorted((folder / "street").rglob("*.jpg"))
    return [np.array(Image.open(path).convert("RGB")) for path in paths[:count]]


class InMemory(Samples):
    """Samples whose images are decoded already."""

    def read(self, index: int) -> np.ndarray:  # noqa: D102
        return self.folders["all"][index]


def samples_of(pictures: list[np.ndarray]) -> InMemory:
    count = len(pictures)
    return InMemory(
        folders={"all": pictures},
        file_names=[f"all/{n}" for n in range(count)],
        image_ids_M=np.arange(1, count + 1),
        widths_M=np.array([p.shape[1] for p in pictures]),
        heights_M=np.array([p.shape[0] for p in pictures]),
        boxes_N4=np.zeros((0, 4), np.float32),
        labels_N=np.zeros(0, np.int64),
        starts=np.zeros(count + 1, np.int64),
    )


def detector(name: str, size: int) -> nn.Module:
    """As if it had been trained: no norm is the identity; every score is kept."""
    built = build_model(name, ["person"], "none", image_size=size, frozen=True)
    generator = torch.Generator().manual_seed(0)
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    built.model.roi_heads.score_thresh = 0.0
    return built.model.eval()


def plain(
    model: nn.Module, pictures: list[np.ndarray], device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """What the model, which is on the device, says of each picture; on the CPU."""
    found = []
    with torch.no_grad():
        for picture in pictures:
            image = torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255
            (output,) = model([image])
            found.append({name: value.cpu() for name, value in output.items()})
    return found


def apart(ours: list[dict], theirs: list[dict[str, torch.Tensor]]) -> tuple[float, int, int]:
    """The largest difference of scores, place by place, and how many differ by more than 1e-4."""
    by_image: dict[int, list[float]] = {}
    for detection in ours:
        by_image.setdefault(detection["image_id"], []).append(detection["score"])
    largest, differing, total = 0.0, 0, 0
    for number, output in enumerate(theirs, start=1):
        mine = np.sort(by_image.get(number, []))[::-1]
        wanted = np.sort(output["scores"].numpy())[::-1]
        shared = min(len(mine), len(wanted))
        gaps = np.abs(mine[:shared] - wanted[:shared])
        largest = max(largest, float(gaps.max(initial=0)))
        differing += int((gaps > 1e-4).sum()) + abs(len(mine) - len(wanted))
        total += len(wanted)
    return largest, differing, total


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--images", type=int, default=32)
    arguments.add_argument("--size", type=int, default=320)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--models", nargs="+", default=MODELS)
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    device = choose_device(asked.device, "float32")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = load(asked.images, Path(folder))
    for name in asked.models:
        rows.append(compare(name, pictures, asked, device))
    if asked.json:
        print(json.dumps(rows))
        return
    print(
        f"{device.name}, {os.cpu_count()} cores, torch {torch.__version__},"
        f" {torch.get_num_threads()} threads; {len(pictures)} images, short side"
        f" {asked.size}, batches of {asked.batch}"
    )
    for row in rows:
        print(
            f"{row['model']:<27} plain {row['plain']:6.3f} s an image, ours {row['ours']:6.3f} s:"
            f" {row['ratio']:.2f} x; scores at most {row['apart']:.0e} apart,"
            f" {row['differing']} of {row['total']:,} by more than 1e-4"
        )


def compare(
    name: str, pictures: list[np.ndarray], asked: argparse.Namespace, device: Device
) -> dict[str, object]:
    model, samples = detector(name, asked.size).to(device.device), samples_of(pictures)
    plain(model, pictures[:2], device.device)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(asked.turns):
        began = time.perf_counter()
        theirs = plain(model, pictures, device.device)
        times["plain"].append(time.perf_counter() - began)
        began = time.perf_counter()
        ours = predict(model, samples, device.device, asked.batch).detections
        times["ours"].append(time.perf_counter() - began)
    each = {way: statistics.median(taken) / len(pictures) for way, taken in times.items()}
    largest, differing, total = apart(ours, theirs)
    return {
        "model": name,
        "device": device.name,
        **each,
        "ratio": each["plain"] / each["ours"],
        "apart": largest,
        "differing": differing,
        "total": total,
    }


if __name__ == "__main__":
    main()
