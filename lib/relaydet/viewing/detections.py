"""Detections drawn beside ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from relaydet.data.loader import Samples
from relaydet.evaluation.matching import match
from relaydet.evaluation.score import Detection
from relaydet.viewing.draw import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    DrawnBox,
    contact_sheet,
    draw_boxes,
    side_by_side,
)

SHOWN_SCORE = 0.5
SHEET_LEGEND = (
    "ground truth on the left (green found, red missed, blue hatched crowd), detections from"
    f" score {SHOWN_SCORE} on the right (green right, orange wrong)."
)


def detection_sheet(
    samples: Samples,
    truths: Sequence[dict[str, Any]],
    detections: Sequence[Detection],
    count: int = 8,
) -> Image.Image:
    """Some images with ground truth on the left and detections on the right.

    They are spaced evenly over the dataset: a fair sample, and the same one for every run.

    Args:
        samples: all images of the dataset.
        truths: its COCO annotations.
        detections: COCO results.
        count: how many images.
    """
    chosen = chosen_images(samples, count)
    tiles = []
    for index in chosen:
        image_id = int(samples.image_ids_M[index])
        here = [t for t in truths if t["image_id"] == image_id]
        found = [d for d in detections if d["image_id"] == image_id]
        tiles.append(_tile(samples.read(index), here, found))
    return contact_sheet(tiles, [samples.file_names[i] for i in chosen], columns=2)


def chosen_images(samples: Samples, count: int = 8) -> list[int]:
    """Indices of the images that a sheet shows, spaced evenly."""
    return sorted(set(np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()))


def _tile(
    image_HWC: np.ndarray, truths: Sequence[dict[str, Any]], found: Sequence[Detection]
) -> Image.Image:
    matches = match(truths, found, min_score=SHOWN_SCORE)
    missed = {id(truth) for truth in matches.missed}
    left = [
        DrawnBox(t["bbox"], BLUE, hatched=True)
        if t.get("iscrowd")
        else DrawnBox(t["bbox"], RED if id(t) in missed else GREEN)
        for t in truths
    ]
    right = [
        DrawnBox(d["bbox"], colour, f"{d['score']:.2f}")
        for colour, group in ((ORANGE, matches.wrong), (GREEN, matches.right))
        for d in group
    ]
    return side_by_side([draw_boxes(image_HWC, left), draw_boxes(image_HWC, right)])
