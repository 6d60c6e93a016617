"""Detections of a model on a dataset, in COCO's results format.

Shape suffixes: N boxes, 4 corners (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import torch
from torchvision.models.detection import FasterRCNN

from relaydet.data.loader import (
    RESIZE_ROUNDING,
    Samples,
    Wait,
    batches_of_one_shape,
    read_batches,
    resize_scale,
)
from relaydet.errors import RelayError
from relaydet.evaluation.results import Detection
from relaydet.evaluation.shards import BATCHES, Shards
from relaydet.speedups import speed_up
from relaydet.speedups.fold import folded
from relaydet.training.loop import to_device
from relaydet.training.micro_batch import MicroBatch, unless_memory_runs_out

ROUNDING = 1e-3
"""Pixels: torchvision rounds a resized side down, after a product in float32."""
Batch = tuple[list[int], list[torch.Tensor]]
"""Indices into the samples, and the images as uint8 [3, H, W]."""
Progress = Callable[[Iterable, int], Iterable]


@dataclass(frozen=True)
class Prediction:
    """What a model says of a dataset, and how long it took."""

    detections: list[Detection]
    """In the order of the dataset's images, each {image_id, category_id, bbox [x, y, width, height]
    in pixels, score 0..1}."""
    images: int
    """Predicted now; those that were kept from before are not among them."""
    loading_seconds: float
    """Spent waiting for images to be read."""
    inference_seconds: float
    """Spent otherwise: the model, and moving images and boxes."""


@dataclass(frozen=True, eq=False)
class _Copy:
    """A model on one device."""

    model: FasterRCNN
    device: torch.device
    at_once: MicroBatch


@dataclass
class _Clock:
    loading: float = 0.0
    began: float = field(default_factory=time.perf_counter)


def predict(
    model: FasterRCNN,
    samples: Samples,
    devices: torch.device | Sequence[torch.device],
    batch_size: int = 8,
    workers: int = 0,
    progress: Progress = lambda batches, total: batches,
    say: Callable[[str], None] = print,
    shards: Shards | None = None,
) -> Prediction:
    """Run the model over all images, in float32.

    Args:
        model: a trained detector whose labels are the dataset's category ids; it is left as it is.
        samples: the images.
        devices: where to run; several share the images.
        batch_size: images per forward pass; where memory runs out, half as many from there on,
            with the same detections.
        workers: loader processes.
        progress: wraps the iteration over batches, of which it is told the number, to show it.
        say: takes a sentence where memory ran out.
        shards: where finished parts are kept, so that a killed prediction goes on; clear them when
            the detections are safe.

    Raises:
        RelayError: one image does not fit into the device's memory, or cannot be read.
    """
    devices = [devices] if isinstance(devices, torch.device) else list(devices)
    batches = batches_of_one_shape(samples, batch_size, partial(_shape, model))
    parts = [batches[i : i + BATCHES] for i in range(0, len(batches), BATCHES)]
    kept = [shards.read(n, part) if shards else None for n, part in enumerate(parts)]
    found = {index: mine for done in kept if done for index, mine in done.items()}
    if found:
        say(f"{len(found)} of {len(samples)} images are predicted already; going on")
    left = [(n, part) for n, part in enumerate(parts) if kept[n] is None]
    images = len(samples) - len(found)
    clock = _Clock()
    results = _results(model, samples, devices, left, batch_size, workers, clock, progress, say)
    for number, part in left:
        mine: dict[int, list[Detection]] = {}
        for _ in part:
            for index, output in next(results):
                mine[index] = _as_detections(int(samples.image_ids_M[index]), output)
        if shards:
            shards.write(number, part, mine)
        found.update(mine)
    for _ in results:  # lets the progress come to its end
        pass
    seconds = time.perf_counter() - clock.began
    return Prediction(
        [detection for index in sorted(found) for detection in found[index]],
        images,
        clock.loading,
        seconds - clock.loading,
    )


def _results(
    model: FasterRCNN,
    samples: Samples,
    devices: Sequence[torch.device],
    parts: Sequence[tuple[int, list[list[int]]]],
    batch_size: int,
    workers: int,
    clock: _Clock,
    progress: Progress,
    say: Callable[[str], None],
) -> Iterator[list[tuple[int, dict[str, torch.Tensor]]]]:
    """What the model says of each batch, in their order, on whichever device is free."""
    batches = [batch for _, part in parts for batch in part]
    if not batches:
        return
    free: SimpleQueue[_Copy] = SimpleQueue()
    for device in devices:
        free.put(_Copy(_on_device(model, device), device, MicroBatch(batch_size)))

    def task(batch: Batch) -> list[tuple[int, dict[str, torch.Tensor]]]:
        mine = free.get()
        try:
            with torch.inference_mode():
                outputs = _outputs(mine.model, batch[1], mine.device, mine.at_once, say)
        finally:
            free.put(mine)
        return list(zip(batch[0], outputs, strict=True))

    reader = progress(
        _timed(read_batches(samples, batches, workers, Wait(say=say)), clock), len(batches)
    )
    if len(devices) == 1:  # no thread: the stop button, and a traceback, work as everywhere
        yield from (task(batch) for batch in reader)
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        running: deque[Future] = deque()
        for batch in reader:
            running.append(pool.submit(task, batch))
            if len(running) > 2 * len(devices):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _timed(batches: Iterator[Batch], clock: _Clock) -> Iterator[Batch]:
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        clock.loading += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def _on_device(model: FasterRCNN, device: torch.device) -> FasterRCNN:
    """A copy that is ready to run, and faster."""
    ready = folded(copy.deepcopy(model).eval())
    if isinstance(ready, FasterRCNN):
        speed_up(ready)
    ready.to(device)
    return ready if device.type == "mps" else ready.to(memory_format=torch.channels_last)


def _outputs(
    model: FasterRCNN,
    images: Sequence[torch.Tensor],
    device: torch.device,
    at_once: MicroBatch,
    say: Callable[[str], None],
) -> list[dict[str, torch.Tensor]]:
    """What the model says of images [3, H, W], on the CPU, in smaller parts until they fit."""
    seen = [_has_pixels(model, image_CHW) for image_CHW in images]
    if not all(seen):
        shown = [image_CHW for image_CHW, has in zip(images, seen, strict=True) if has]
        found_shown = iter(_outputs(model, shown, device, at_once, say) if shown else [])
        return [next(found_shown) if has else _nothing() for has in seen]

    def attempt() -> list[dict[str, torch.Tensor]]:
        found = []
        for first in range(0, len(images), at_once.size):
            part = images[first : first + at_once.size]
            found += model([to_device(image_CHW, device) for image_CHW in part])
        return [{name: value.cpu() for name, value in output.items()} for output in found]

    tries = 0
    while True:
        outputs = unless_memory_runs_out(attempt, device)
        if outputs is not None:
            return outputs
        size, tries = min(at_once.size, len(images)), tries + 1
        if tries == 1 and at_once.retry(device):
            say(f"{size} images at once did not fit into the memory; trying again")
            continue
        if size == 1:
            raise RelayError("The device's memory is too small for one image; take DEVICE cpu.")
        at_once.halve(len(images))
        say(f"{size} images at once did not fit into the memory; from here on {at_once.size}")


def _has_pixels(model: FasterRCNN, image_CHW: torch.Tensor) -> bool:
    """Return whether an image has any pixel left once it is resized; torchvision fails on none."""
    transform = getattr(model, "transform", None)
    if transform is None:
        return True
    height, width = image_CHW.shape[-2:]
    scale = resize_scale(width, height, (transform.min_size[-1], transform.max_size))
    return min(height, width) * scale >= 1 + RESIZE_ROUNDING


def _nothing() -> dict[str, torch.Tensor]:
    """What a detector says that found nothing."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }


def _shape(model: FasterRCNN, height: int, width: int) -> tuple[int, int]:
    """Height and width of what torchvision's detectors make of an image: resized, then padded."""
    transform = getattr(model, "transform", None)
    if transform is None:
        return height, width
    shortest, longest = transform.min_size[-1], transform.max_size
    scale = min(shortest / min(height, width), longest / max(height, width))
    step = transform.size_divisible
    high, wide = (max(1, int(side * scale + ROUNDING)) for side in (height, width))
    return -(-high // step) * step, -(-wide // step) * step


def _as_detections(image_id: int, output: dict[str, torch.Tensor]) -> list[Detection]:
    boxes_N4 = output["boxes"].double()
    xywh_N4 = torch.cat([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], dim=1)
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
        for box, label, score in zip(
            xywh_N4.round(decimals=3).tolist(),
            output["labels"].tolist(),
            output["scores"].tolist(),
            strict=True,
        )
    ]
