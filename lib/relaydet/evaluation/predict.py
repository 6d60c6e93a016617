"""Detections of a model on a dataset, in COCO's results format.

Shape suffixes: N boxes, 4 corners (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torchvision.models.detection import FasterRCNN

from relaydet.data.loader import Samples, image_batches
from relaydet.evaluation.score import Detection
from relaydet.training.loop import to_device


def predict(
    model: FasterRCNN,
    samples: Samples,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Detection]:
    """Run the model over all images, in float32.

    Args:
        model: a trained detector whose labels are the dataset's category ids.
        samples: the images.
        device: where to run.
        batch_size: images per forward pass.
        workers: loader processes.
        progress: wraps the iteration over batches, to show it.

    Returns:
        Detections in the order of the dataset's images, each
        {image_id, category_id, bbox [x, y, width, height] in pixels, score 0..1}.
    """
    model.to(device).eval()
    found: dict[int, list[Detection]] = {}
    with torch.inference_mode():
        for indices, images in progress(image_batches(samples, batch_size, workers)):
            outputs = model([to_device(image, device) for image in images])
            for index, output in zip(indices, outputs, strict=True):
                found[index] = _as_detections(int(samples.image_ids_M[index]), output)
    return [detection for index in sorted(found) for detection in found[index]]


def _as_detections(image_id: int, output: dict[str, torch.Tensor]) -> list[Detection]:
    boxes_N4 = output["boxes"].cpu().double()
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
