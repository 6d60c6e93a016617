"""Detections of a model on a dataset, in COCO's results format.

Shape suffixes: N boxes, 4 corners (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torchvision.models.detection import FasterRCNN

from relaydet.data.loader import Samples, image_batches
from relaydet.errors import RelayError
from relaydet.evaluation.score import Detection
from relaydet.training.loop import to_device
from relaydet.training.micro_batch import MicroBatch, without_trace
from relaydet.training.sampling import Position


def predict(
    model: FasterRCNN,
    samples: Samples,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
    say: Callable[[str], None] = print,
) -> list[Detection]:
    """Run the model over all images, in float32.

    Args:
        model: a trained detector whose labels are the dataset's category ids.
        samples: the images.
        device: where to run.
        batch_size: images per forward pass; where memory runs out, half as many from there on,
            with the same detections.
        workers: loader processes.
        progress: wraps the iteration over batches, to show it.
        say: takes a sentence where memory ran out.

    Returns:
        Detections in the order of the dataset's images, each
        {image_id, category_id, bbox [x, y, width, height] in pixels, score 0..1}.

    Raises:
        RelayError: one image does not fit into the device's memory.
    """
    model.to(device).eval()
    found: dict[int, list[Detection]] = {}
    at_once = MicroBatch(batch_size)
    with torch.inference_mode():
        for indices, images in progress(image_batches(samples, batch_size, workers)):
            outputs = _outputs(model, images, device, at_once, say)
            for index, output in zip(indices, outputs, strict=True):
                found[index] = _as_detections(int(samples.image_ids_M[index]), output)
    return [detection for index in sorted(found) for detection in found[index]]


def _outputs(
    model: FasterRCNN,
    images: Sequence[torch.Tensor],
    device: torch.device,
    at_once: MicroBatch,
    say: Callable[[str], None],
) -> list[dict[str, torch.Tensor]]:
    """What the model says of images [3, H, W], on the CPU, in smaller parts until they fit."""

    def attempt() -> list[dict[str, torch.Tensor]]:
        found = []
        for first in range(0, len(images), at_once.size):
            part = images[first : first + at_once.size]
            found += model([to_device(image_CHW, device) for image_CHW in part])
        return [{name: value.cpu() for name, value in output.items()} for output in found]

    while True:
        with _padded_alike(model, images, at_once):
            outputs = without_trace(attempt, [], device)
        if outputs is not None:
            return outputs
        size = min(at_once.size, len(images))
        if size == 1:
            raise RelayError("The device's memory is too small for one image; take DEVICE cpu.")
        at_once.halve(len(images))
        say(f"{size} images at once did not fit into the memory; from here on {at_once.size}")


@contextmanager
def _padded_alike(
    model: FasterRCNN, images: Sequence[torch.Tensor], at_once: MicroBatch
) -> Iterator[None]:
    """Pad the parts of a batch as the whole: what is beside an image reaches its last digits."""
    if len(images) <= at_once.size:
        yield
        return
    position, largest = Position(0, transform=model.transform), model.transform.max_by_axis
    position.begin(images)
    model.transform.max_by_axis = lambda shapes: largest([*shapes, *position.shapes])
    try:
        yield
    finally:
        model.transform.max_by_axis = largest


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
