"""How many images go through the detector at once: as many as fit, of the optimizer's batch.

It is no part of what is trained: every image weighs the same, and the anchors to learn from are
keyed by the image's place in the optimizer's batch. Only batch norms that train see a micro-batch.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from relaydet.errors import RelayError
from relaydet.runtime.device import Device
from relaydet.runtime.memory import give_back, has_cache, is_out_of_memory

T = TypeVar("T")

SHARE = 0.9
"""Of the free memory, what is counted on: allocators leave gaps, and scenes with many boxes take
more than the probe's."""
RETRIES = 3
"""Batches that are done again in the same size, with an empty cache, before the size is halved at
once. Shapes change from batch to batch, so pieces of a wrong size alone can fill the memory."""
PROBE_BOXES = 50
"""Objects on an image of the probe."""


@dataclass
class MicroBatch:
    """Images per forward pass; becomes smaller where memory turns out to be too small."""

    size: int
    retries: int = RETRIES
    """How many batches may still be done again in the same size."""

    def retry(self, device: torch.device) -> bool:
        """Return whether to do a batch again as it was, after its cache was emptied; count it."""
        if not has_cache(device) or not self.retries:
            return False
        self.retries -= 1
        return True

    def halve(self, images: int) -> None:
        """Take half of what a batch of so many images was cut into."""
        self.size = math.ceil(min(self.size, images) / 2)


def choose_micro_batch(
    asked: int | None,
    batch_size: int,
    before: int | None,
    probe: Callable[[], tuple[int, str]] | None,
) -> tuple[int, str]:
    """Images per forward pass, and why; the reason is empty where there is nothing to tell.

    Args:
        asked: MICRO_BATCH; None decides here.
        batch_size: images of an optimizer step.
        before: what this run had on the same kind of device: another one would change the order of
            sums, and with it the last bits of the weights.
        probe: finds out how many fit; None where memory cannot be asked.
    """
    if asked is not None:
        return min(asked, batch_size), "" if asked >= batch_size else "as asked"
    if before is not None:
        return min(before, batch_size), "as before, on the same kind of device"
    return probe() if probe else (batch_size, "")


def probe_memory(
    model: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    device: Device,
    batch_size: int,
    autocast: Callable[[], Any],
) -> tuple[int, str]:
    """How many images of the largest size fit into a CUDA device at once, and the reason.

    One image and then two are sent forward and backward; what the second took more is what each
    takes. Weights, statistics, gradients and the random streams are as before afterwards.

    Raises:
        RelayError: not even one fits.
    """
    buffers = norm_buffers(model)
    kept = [buffer.clone() for buffer in buffers]
    try:
        with torch.random.fork_rng([device.device]):
            measured = _measure(model, optimizer, device.device, autocast, batch_size)
    finally:
        optimizer.zero_grad(set_to_none=True)
        put_back(buffers, kept)
        give_back(device.device)
    if measured is None:
        raise RelayError(
            f"The memory of the {device.name} is too small for one image; lower IMAGE_SIZE, or take"
            " a smaller MODEL."
        )
    return micro_batch_for(measured, batch_size)


@dataclass(frozen=True)
class Measured:
    """What a probe found, in bytes."""

    free: int
    """What parts of a batch may take, once the weights and their gradients are there."""
    one: int
    """The most that one image took."""
    two: int | None
    """The most that two took; None where they did not fit, or a batch has only one."""
    later: int
    """What the optimizer will hold after its first step."""


def micro_batch_for(measured: Measured, batch_size: int) -> tuple[int, str]:
    """How many images of a batch to take at once, and the reason."""
    each = measured.one if measured.two is None else max(1, measured.two - measured.one)
    room = SHARE * measured.free - measured.later - (measured.one - each)
    fits = 1 if measured.two is None else max(1, int(room // each))
    size = even_parts(batch_size, min(fits, batch_size))
    return size, f"{measured.free / 1e9:.1f} GB free, {each / 1e9:.2f} GB an image"


def even_parts(batch_size: int, most: int) -> int:
    """The size that cuts a batch into the fewest parts of at most so many, as equal as can be."""
    return math.ceil(batch_size / math.ceil(batch_size / most))


def has_synchronised_norms(model: nn.Module) -> bool:
    """Whether ranks wait for each other inside a forward pass."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def norm_buffers(model: nn.Module) -> list[torch.Tensor]:
    """The running statistics that a forward pass changes, of batch norms that train."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [buffer for norm in norms if norm.training for buffer in norm.buffers()]


def unless_memory_runs_out(attempt: Callable[[], T], device: torch.device) -> T | None:
    """What the attempt returns; None where memory ran out."""
    try:
        return attempt()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Not in the except block: the error's frames hold the tensors that are to be freed.
    give_back(device)
    return None


def put_back(buffers: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> None:
    """Give tensors the values that they had when they were copied."""
    with torch.no_grad():
        for buffer, was in zip(buffers, kept, strict=True):
            buffer.copy_(was)


def _measure(
    model: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    autocast: Callable[[], Any],
    batch_size: int,
) -> Measured | None:
    """Run the probe; None where one image does not fit."""
    # The first pass loads libraries, which take memory of their own, and leaves the gradients: they
    # are there as well when the later parts of a batch accumulate.
    if _peak(model, 1, device, autocast) is None:
        return None
    free, held = _free_memory(device), torch.cuda.memory_allocated(device)
    one = _peak(model, 1, device, autocast)
    if one is None:
        return None
    two = _peak(model, 2, device, autocast) if batch_size > 1 else None
    later = _optimizer_bytes(optimizer)
    return Measured(free, one - held, None if two is None else two - held, later)


def _peak(
    model: FasterRCNN, images: int, device: torch.device, autocast: Callable[[], Any]
) -> int | None:
    """The most memory in bytes that a forward and backward pass takes; None if it is too much."""
    transform = model.transform
    short, long = int(transform.min_size[-1]), int(transform.max_size)
    side = torch.linspace(0, 0.7, PROBE_BOXES, device=device)
    corner_N2 = torch.stack([side * long, side * short], dim=1)
    size_2 = torch.tensor([0.3 * long, 0.3 * short], device=device)
    target = {
        "boxes": torch.cat([corner_N2, corner_N2 + size_2], dim=1),
        "labels": torch.ones(PROBE_BOXES, dtype=torch.int64, device=device),
    }

    def attempt() -> int:
        torch.cuda.reset_peak_memory_stats(device)
        image_CHW = torch.rand(3, short, long, device=device)
        with autocast():
            losses = model([image_CHW] * images, [target] * images)
        torch.stack(list(losses.values())).sum().backward()
        return torch.cuda.max_memory_allocated(device)

    return unless_memory_runs_out(attempt, device)


def _free_memory(device: torch.device) -> int:
    give_back(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer will hold after its first step, and does not yet."""
    if optimizer.state:
        return 0
    copies = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return copies * sum(p.numel() * p.element_size() for p in parameters)
