"""The training loop, in the open: one optimizer step after the other.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torchvision.models.detection import FasterRCNN

from relaydet.data.loader import Sample
from relaydet.errors import RelayError
from relaydet.model import Recipe
from relaydet.runtime.device import Device
from relaydet.training.sampling import Position
from relaydet.training.schedule import Schedule, learning_rate


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Sum of the losses, averaged over the images of the batch."""
    losses: dict[str, float]
    """Each of the detector's four losses."""
    lr: float
    images: int
    """Images in the batch."""
    seconds: float
    """Time for everything, waiting for data included."""
    data_seconds: float
    """Time spent waiting for data."""


def build_optimizer(model: FasterRCNN, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters; each step sets its own rate."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=1.0, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def train_steps(
    model: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[Sample]],
    position: Position,
    schedule: Schedule,
    device: Device,
    first_step: int,
    micro_batch: int,
) -> Iterator[Step]:
    """Train on the batches, from optimizer step `first_step` on.

    Between two steps the caller may log, save or stop; nothing else carries state.

    Args:
        model: in training mode, on the device.
        optimizer: over the model's parameters.
        batches: one list of samples for each optimizer step.
        position: keys the model's own random choices.
        schedule: the learning rate.
        device: where to compute, and in which precision.
        first_step: optimizer steps already done.
        micro_batch: images per forward pass; gradients accumulate over the batch.

    Raises:
        RelayError: a loss is not finite; the step is not taken.
    """
    started = time.perf_counter()
    for step, batch in enumerate(batches, start=first_step):
        arrived = time.perf_counter()
        lr = learning_rate(schedule, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses = _accumulate(model, batch, position, device, step, micro_batch)
        _require_finite(losses, step, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = time.perf_counter()
        yield Step(
            step=step + 1,
            loss=sum(losses.values()),
            losses=losses,
            lr=lr,
            images=len(batch),
            seconds=done - started,
            data_seconds=arrived - started,
        )
        started = time.perf_counter()


def _accumulate(
    model: FasterRCNN,
    batch: Sequence[Sample],
    position: Position,
    device: Device,
    step: int,
    micro_batch: int,
) -> dict[str, float]:
    """Forward and backward over the batch, part by part; every image weighs the same."""
    totals: dict[str, torch.Tensor] = {}
    position.begin([image_CHW for image_CHW, _ in batch])
    for first in range(0, len(batch), micro_batch):
        part = batch[first : first + micro_batch]
        weight = len(part) / len(batch)
        position.enter(step, first)
        images = [to_device(image_CHW, device.device) for image_CHW, _ in part]
        targets = [{k: v.to(device.device) for k, v in target.items()} for _, target in part]
        with _precision(device):
            losses = {name: loss * weight for name, loss in model(images, targets).items()}
        torch.stack(list(losses.values())).sum().backward()
        for name, loss in losses.items():
            totals[name] = totals.get(name, torch.zeros_like(loss)) + loss.detach()
    return {name.removeprefix("loss_"): float(total) for name, total in totals.items()}


def _precision(device: Device) -> AbstractContextManager:
    """Autocast to bfloat16, or nothing at all: not every release has autocast for MPS."""
    if device.dtype == torch.bfloat16:
        return torch.autocast(device.device.type, dtype=torch.bfloat16)
    return nullcontext()


def to_device(image_CHW: torch.Tensor, device: torch.device) -> torch.Tensor:
    """An image as torchvision's detectors take it: float32 [3, H, W] in 0..1, on the device."""
    return image_CHW.to(device, non_blocking=True).float().div_(255)


def _require_finite(losses: dict[str, float], step: int, lr: float) -> None:
    if not all(math.isfinite(loss) for loss in losses.values()):
        values = ", ".join(f"{name} {loss:g}" for name, loss in losses.items())
        raise RelayError(
            f"Step {step}: the loss is not finite ({values}; learning rate {lr:g}); lower"
            " LEARNING_RATE or set precision to float32, and start a new RUN."
        )
