"""The training loop, in the open: one optimizer step after the other.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN

from relaydet.compat import grad_scaler
from relaydet.data.loader import Sample
from relaydet.data.order import Share
from relaydet.errors import RankLostError, RelayError
from relaydet.model import Recipe
from relaydet.runtime.device import Device
from relaydet.training.micro_batch import (
    MicroBatch,
    norm_buffers,
    put_back,
    unless_memory_runs_out,
)
from relaydet.training.sampling import Position
from relaydet.training.schedule import Schedule, learning_rate
from relaydet.training.team import ALONE, Bucket, Team

LOSSES = ("classifier", "box_reg", "objectness", "rpn_box_reg")
"""Of torchvision's detector, whose names have loss_ before them."""


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
    """Images in the whole batch."""
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


def build_scaler(device: Device) -> Any:
    """What scales losses so that float16's gradients do not vanish; None in other precisions."""
    return grad_scaler(device.device.type) if device.dtype == torch.float16 else None


@dataclass(frozen=True)
class Learner:
    """What an optimizer step works with."""

    model: FasterRCNN
    """In training mode, on the device."""
    optimizer: torch.optim.Optimizer
    """Over the model's parameters."""
    position: Position
    """Keys the model's own random choices."""
    device: Device
    """Where to compute, and in which precision."""
    scaler: Any = None
    """Of `build_scaler`. A step that it skips, since gradients overflowed, counts as one."""
    team: Team = ALONE
    """The ranks that share each batch."""
    even_passes: bool = False
    """Whether all ranks do as many forward passes, as norms need that look at all of them."""


@dataclass
class Taken:
    """Which optimizer step the weights are of."""

    step: int | None
    """Optimizer steps done; None while one is applied, which may be left half done."""


def train_steps(
    learner: Learner,
    batches: Iterable[tuple[Share, list[Sample]]],
    schedule: Schedule,
    first_step: int,
    micro_batch: MicroBatch,
    say: Callable[[str], None] = print,
    taken: Taken | None = None,
) -> Iterator[Step]:
    """Train on the batches, from optimizer step `first_step` on.

    Between two steps the caller may log, save or stop; nothing else carries state. Whatever a step
    fails with before it is applied, weights and statistics are those of the step before.

    Args:
        learner: the model and what trains it.
        batches: for each optimizer step, this rank's share of it and the samples.
        schedule: the learning rate.
        first_step: optimizer steps already done.
        micro_batch: images per forward pass; gradients accumulate over the batch. Where a GPU's
            memory runs out the batch is done again with an empty cache, then in halves.
        say: takes a sentence where memory ran out.
        taken: is kept at the step that the weights are of.

    Raises:
        RankLostError: another rank was lost; the step is not taken.
        RelayError: a loss is not finite, or one image does not fit into the memory; the step is not
            taken.
    """
    norms = norm_buffers(learner.model)
    taken = taken or Taken(first_step)
    started = time.perf_counter()
    for step, (share, batch) in enumerate(batches, start=first_step):
        arrived = time.perf_counter()
        lr = learning_rate(schedule, step)
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        with _unless_it_fails(learner, norms, taken) as kept:
            losses = _gradients(learner, share, batch, step, micro_batch, norms, kept, say)
            _require_finite(losses, step, lr)
        _update(learner)
        taken.step = step + 1
        done = time.perf_counter()
        yield Step(
            step=step + 1,
            loss=sum(losses.values()),
            losses=losses,
            lr=lr,
            images=share.batch,
            seconds=done - started,
            data_seconds=arrived - started,
        )
        started = time.perf_counter()


@contextmanager
def _unless_it_fails(
    learner: Learner, norms: Sequence[torch.Tensor], taken: Taken
) -> Iterator[list[torch.Tensor]]:
    """Keep the norms' statistics meanwhile, and put them back where the step is not taken."""
    kept, step = [buffer.clone() for buffer in norms], taken.step
    taken.step = None
    try:
        yield kept
    except BaseException:
        # A device that fell away cannot be written to; why it did is what counts.
        with suppress(RuntimeError):
            put_back(norms, kept)
            learner.optimizer.zero_grad(set_to_none=True)
            taken.step = step
        raise


def _gradients(
    learner: Learner,
    share: Share,
    batch: Sequence[Sample],
    step: int,
    micro_batch: MicroBatch,
    norms: Sequence[torch.Tensor],
    kept: Sequence[torch.Tensor],
    say: Callable[[str], None],
) -> dict[str, float]:
    """The losses of a batch, whose gradients are then there: in smaller parts until they fit.

    All ranks take smaller parts when one has to: they go on step by step together.
    """
    learner.position.begin([image_CHW for image_CHW, _ in batch], learner.team)
    tries = 0
    while True:
        attempt = partial(_attempt, learner, share, batch, step, micro_batch.size)
        mine, packed = unless_memory_runs_out(attempt, learner.device.device) or (None, [])
        if mine is None and learner.even_passes:
            raise _out_of_step(learner.team, micro_batch)
        losses = _summed(learner.team, mine)
        if losses is not None:
            learner.team.sum_gradients(packed)
            return losses
        put_back(norms, kept)
        learner.optimizer.zero_grad(set_to_none=True)
        tries += 1
        if tries == 1 and micro_batch.retry(learner.device.device):
            size = min(micro_batch.size, share.most)
            say(f"step {step}: {size} images at once did not fit into the memory; trying again")
        else:
            _halve(micro_batch, share, step, say)


def _attempt(
    learner: Learner, share: Share, batch: Sequence[Sample], step: int, micro_batch: int
) -> tuple[dict[str, float], list[Bucket]]:
    """All of a step that takes memory: this rank's losses, and its gradients ready to be summed."""
    losses = _accumulate(learner, share, batch, step, micro_batch)
    return losses, learner.team.pack_gradients(_parameters(learner.optimizer))


def _summed(team: Team, mine: dict[str, float] | None) -> dict[str, float] | None:
    """The losses over all ranks; None where the memory of one ran out."""
    given = mine or dict.fromkeys(LOSSES, 0.0)
    failed, *totals = team.total([float(mine is None), *(given[name] for name in LOSSES)])
    return None if failed else dict(zip(LOSSES, totals, strict=True))


def _accumulate(
    learner: Learner, share: Share, batch: Sequence[Sample], step: int, micro_batch: int
) -> dict[str, float]:
    """Forward and backward over the batch, part by part; every image weighs the same."""
    device = learner.device.device
    totals = torch.zeros(len(LOSSES), device=device)
    for first in range(0, share.most if learner.even_passes else share.count, micro_batch):
        part = batch[first : min(first + micro_batch, share.count)]
        weight = len(part) / share.batch
        learner.position.enter(step, share.first + first)
        shown = part or batch[-1:]
        images = [to_device(image_CHW, device) for image_CHW, _ in shown]
        targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for _, t in shown]
        with autocast(learner.device):
            losses = learner.model(images, targets)
        each = torch.stack([losses[f"loss_{name}"] * weight for name in LOSSES])
        total = each.sum()
        (total if learner.scaler is None else learner.scaler.scale(total)).backward()
        totals += each.detach()
    return dict(zip(LOSSES, totals.tolist(), strict=True))


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _update(learner: Learner) -> None:
    if learner.scaler is None:
        learner.optimizer.step()
    else:
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)


def autocast(device: Device) -> AbstractContextManager:
    """Autocast to 16 bits, or nothing at all: not every release has autocast for MPS."""
    if device.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.device.type, dtype=device.dtype)


def _out_of_step(team: Team, micro_batch: MicroBatch) -> RankLostError:
    """The others wait in a norm for what this rank has no memory for: they cannot do it again."""
    return RankLostError(
        f"Rank {team.rank}: the device's memory ran out, and with SYNC_BATCH_NORM no smaller parts"
        f" can be tried; set MICRO_BATCH below {micro_batch.size}"
    )


def _halve(micro_batch: MicroBatch, share: Share, step: int, say: Callable[[str], None]) -> None:
    size = min(micro_batch.size, share.most)
    if size == 1:
        raise RelayError(
            f"Step {step}: the device's memory is too small for one image; lower IMAGE_SIZE, or"
            " take a smaller MODEL."
        )
    micro_batch.halve(share.most)
    say(
        f"step {step}: {size} images at once did not fit into the memory; this batch again, and"
        f" from here on, {micro_batch.size} at a time (the optimizer's batch stays"
        f" {share.batch})"
    )


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
