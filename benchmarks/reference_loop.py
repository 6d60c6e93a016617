"""torchvision's detection reference as a peer: its recipe, written from what it documents.

https://github.com/pytorch/vision/tree/main/references/detection: a dataset class over COCO's
annotations that opens images with PIL, the transforms of its preset `hflip`, a DataLoader whose
batches are tuples, SGD with momentum, a loss that is read in every step, and `--amp` (autocast and
a scaler, on CUDA). The model is torchvision's own, untouched; images share a batch as ours do, so
that neither side has less padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.transforms import functional

FLIP = 0.5


@dataclass(frozen=True)
class Photo:
    """An image file and what is on it."""

    path: Path
    boxes_N4: torch.Tensor
    """Corners in pixels."""
    labels_N: torch.Tensor


@dataclass(frozen=True)
class ReferenceDataset:
    """What `torchvision.datasets.CocoDetection` and the preset's transforms do for one image."""

    photos: Sequence[Photo]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        photo = self.photos[index]
        return transform(decode(photo.path), photo)


def decode(path: Path) -> Image.Image:
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def transform(image: Image.Image, photo: Photo) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PILToTensor, RandomHorizontalFlip, ToDtype(float32, scale=True)."""
    image_CHW, boxes_N4 = functional.pil_to_tensor(image), photo.boxes_N4
    if torch.rand(1) < FLIP:
        image_CHW = functional.hflip(image_CHW)
        boxes_N4 = boxes_N4.clone()
        boxes_N4[:, [0, 2]] = image_CHW.shape[-1] - boxes_N4[:, [2, 0]]
    target = {"boxes": boxes_N4, "labels": photo.labels_N}
    return functional.convert_image_dtype(image_CHW, torch.float32), target


def collate(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))


def loader(photos: Sequence[Photo], batches: Sequence[list[int]], workers: int) -> DataLoader:
    return DataLoader(
        ReferenceDataset(photos),  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
    )


def to_device(images: Any, targets: Any, device: torch.device) -> tuple[list[Any], list[Any]]:
    wanted = [{k: v.to(device) for k, v in target.items()} for target in targets]
    return [image.to(device) for image in images], wanted


def reference_steps(
    model: FasterRCNN, batches: DataLoader, device: torch.device, amp: bool, rate: float
) -> Iterator[float]:
    """One optimizer step after the other, as the reference's `train_one_epoch`; yields the loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=1e-4)
    scaler = torch.cuda.amp.GradScaler() if amp else None
    for images, targets in batches:
        shown, wanted = to_device(images, targets, device)
        with torch.autocast(device.type, dtype=torch.float16, enabled=amp):
            losses = model(shown, wanted)
            total = sum(losses.values())
        value = total.item()
        if not math.isfinite(value):
            raise SystemExit(f"the reference's loss is {value}")
        optimizer.zero_grad()
        if scaler is None:
            total.backward()
            optimizer.step()
        else:
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()
        yield value
