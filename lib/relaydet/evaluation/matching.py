"""Which detections are right at one score threshold: what pictures and counts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask


@dataclass(frozen=True)
class Matches:
    """Ground truth against detections on one image."""

    right: list[dict[str, Any]]
    """Detections that match an object."""
    wrong: list[dict[str, Any]]
    """Detections that match none (those on a crowd region are in neither list)."""
    missed: list[dict[str, Any]]
    """Objects that no detection matches."""


def match(
    truths: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    min_score: float = 0.5,
    min_iou: float = 0.5,
) -> Matches:
    """Match greedily from the highest score down, each detection to the best free object.

    Args:
        truths: COCO annotations of one image.
        detections: COCO results of that image.
        min_score: detections below are not looked at.
        min_iou: overlap that makes a match.
    """
    taken: set[int] = set()
    right, wrong = [], []
    for detection in sorted(detections, key=lambda d: -d["score"]):
        if detection["score"] < min_score:
            break
        same = [t for t in truths if t["category_id"] == detection["category_id"]]
        overlaps = _overlaps(detection, same)
        free = [
            (overlap, truth)
            for overlap, truth in zip(overlaps, same, strict=True)
            if overlap >= min_iou and (truth.get("iscrowd") or id(truth) not in taken)
        ]
        objects = [pair for pair in free if not pair[1].get("iscrowd")]
        if objects:
            taken.add(id(max(objects, key=lambda pair: pair[0])[1]))
            right.append(detection)
        elif not free:
            wrong.append(detection)
    missed = [t for t in truths if not t.get("iscrowd") and id(t) not in taken]
    return Matches(right, wrong, missed)


def _overlaps(detection: dict[str, Any], truths: Sequence[dict[str, Any]]) -> np.ndarray:
    if not truths:
        return np.zeros(0)
    boxes = np.array([t["bbox"] for t in truths], np.float64)
    crowd = [int(t.get("iscrowd", 0)) for t in truths]
    return mask.iou(np.array([detection["bbox"]], np.float64), boxes, crowd)[0]
