"""Those that train beside each other: torchvision's loop, detectron2, and ours in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import detectron2_loop
import reference_loop
import torch
import torchvision
from reference_loop import Photo, loader, reference_steps
from step_parts import detectron2_of_an_image, ours_of_an_image, reference_of_an_image
from torchvision.models.detection.anchor_utils import AnchorGenerator

from relaydet.config import TrainConfig
from relaydet.data.loader import Samples
from relaydet.data.order import epoch_batches
from relaydet.model import build_model
from relaydet.runtime.device import Device, choose_device, plainly
from relaydet.speedups.frozen_norms import join_frozen_norms
from relaydet.speedups.roi_align import SparseRoIAlign
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored, equip
from relaydet.training.steps import run_steps
from relaydet.training.team import ALONE

RATE = 1e-6  # nothing is learnt: each step of all sides does the same work


@dataclass(frozen=True)
class Task:
    """What is trained, by all sides alike."""

    model: str
    image_size: int
    batch_size: int
    workers: int
    samples: Samples
    photos: list[Photo]
    categories: list[str]

    def batches(self) -> list[list[int]]:
        """Image numbers of the first epochs' batches."""
        groups = self.samples.groups_M()
        epochs = (epoch_batches(0, epoch, groups, self.batch_size) for epoch in range(64))
        return [batch.tolist() for epoch in epochs for batch in epoch]


@dataclass
class Side:
    """One of those that take turns."""

    name: str
    steps: Iterator[Any]
    device: Device
    places: dict[str, list[tuple[Any, str]]]
    bytes_held: int
    """What it holds on the GPU between steps."""
    loading: Callable[[Sequence[int]], dict[str, float]]
    """Seconds of reading images of these numbers, by part."""


def reference(task: Task, device: Device, amp: bool) -> Side:
    """Torchvision's loop."""
    before = held(device)
    built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
    model = built.model.to(device.device).train()
    for part in (model.rpn, model.roi_heads):
        part.box_coder = torchvision.models.detection._utils.BoxCoder(part.box_coder.weights)
    ours = model.rpn.anchor_generator
    model.rpn.anchor_generator = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    feed = loader(task.photos, task.batches(), task.workers)
    steps = reference_steps(model, feed, device.device, amp, RATE)
    places = {
        **places_of(model),
        "transfer": [(reference_loop, "to_device")],
        "optimizer": [(torch.optim.SGD, "step")],
    }
    name = f"torchvision's loop, {'--amp' if amp else 'float32'}"
    measure = partial(reference_of_an_image, task.photos)
    return Side(name, steps, device, places, held(device) - before, measure)


def detectron2(task: Task, device: Device, amp: bool) -> Side:
    """detectron2's trainer."""
    before = held(device)
    built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
    settings, model = detectron2_loop.build(built.model, device.device, RATE)
    optimizer = detectron2_loop.optimizer_of(settings, model)
    feed = detectron2_loop.loader(task.photos, task.batches(), task.workers, settings)
    places = {
        "transfer": [(model, "preprocess_image")],
        "forward": [(model, "forward")],
        "losses": [(model.proposal_generator, "losses"), (model.roi_heads.box_predictor, "losses")],
        "backward": [(torch.Tensor, "backward")],
        "optimizer": [(optimizer, "step")],
    }
    steps = detectron2_loop.detectron2_steps(model, feed, optimizer, amp)
    name = f"detectron2, {'AMP' if amp else 'float32'}"
    measure = partial(detectron2_of_an_image, feed.dataset)
    return Side(name, steps, device, places, held(device) - before, measure)


def ours(task: Task, device: Device, name: str, trained: Restored | None = None) -> Side:
    """The steps of a run; of a new detector, where none is given."""
    from relaydet.training import loop

    before = held(device)
    if trained is None:
        built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
        trained = Restored(built, *equip(built, device), MicroBatch(task.batch_size))
    config = TrainConfig(
        model=task.model,
        epochs=64,
        batch_size=task.batch_size,
        learning_rate=RATE,
        image_size=task.image_size,
        workers=task.workers,
    )
    steps = run_steps(config, task.samples, trained, device, ALONE, 0, print)
    places = {
        **places_of(trained.built.model),
        "transfer": [(loop, "to_device")],
        "optimizer": [(trained.optimizer, "step")],
    }
    measure = partial(ours_of_an_image, task.samples)
    return Side(name, steps, device, places, held(device) - before, measure)


def places_of(model: Any) -> dict[str, list[tuple[Any, str]]]:
    """What both sides have in common."""
    from torchvision.models.detection import roi_heads

    return {
        "forward": [(model, "forward")],
        "losses": [(model.rpn, "compute_loss"), (roi_heads, "fastrcnn_loss")],
        "backward": [(torch.Tensor, "backward")],
    }


def held(device: Device) -> int:
    return torch.cuda.memory_allocated(device.device) if device.device.type == "cuda" else 0


def sides_of(task: Task, asked: str) -> list[Side]:
    """The peer first."""
    best, single = choose_device(asked), choose_device(asked, "float32")
    plain = plainly(single)
    cuda = plain.device.type == "cuda"
    sides = [reference(task, plain, amp=False)]
    sides += [reference(task, plain, amp=True)] if cuda else []
    if detectron2_loop.installed() and task.model == detectron2_loop.MODEL:
        sides += [detectron2(task, plain, amp) for amp in ((False, True) if cuda else (False,))]
    sides += [ours(task, single, "relaydet, float32")]
    if best.dtype != torch.float32:
        sides += [ours(task, best, f"relaydet, {_called(best)}")]
    return sides


def sides_alone(task: Task, asked: str) -> list[Side]:
    """Ours without any of its speed-ups, with each of them alone, and with all."""
    best, single = choose_device(asked), choose_device(asked, "float32")
    plain = plainly(single)

    def side(name: str, device: Device, change: Callable[[Any], None] | None = None) -> Side:
        built = build_model(task.model, task.categories, "none", task.image_size, frozen=True)
        if change:
            change(built.model)
        trained = Restored(built, *equip(built, device), MicroBatch(task.batch_size))
        return ours(task, device, name, trained)

    sides = [
        side("--plain", plain),
        side("RoIAlign as a sparse product", plain, _sparse_roi_align),
        side("norms done by convolutions", plain, lambda model: join_frozen_norms(model.backbone)),
        side("channels last", replace(plain, channels_last=single.channels_last)),
    ]
    if best.dtype != torch.float32:
        sides += [side(_called(best), plainly(best))]
    return [*sides, side("all in float32", single), side("all", best)]


def _sparse_roi_align(model: Any) -> None:
    model.roi_heads.box_roi_pool = SparseRoIAlign(model.roi_heads.box_roi_pool)


def _called(device: Device) -> str:
    return str(device.dtype).removeprefix("torch.")
