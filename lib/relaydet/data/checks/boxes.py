"""Checks of boxes against their images: dropped where they are none, clamped where they reach out.

Shape suffixes: N boxes, 4 coordinates.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from msgspec import UNSET

from relaydet.data.dataset import Annotation, Dataset, set_extra
from relaydet.data.findings import Finding

RAW_BBOX = "raw_bbox"
# Boxes that reach out of the image by less are only rounded: x + width in binary floating point.
TOLERANCE = 1e-6

_BOX_PROBLEMS = {
    "box-clamped": "reaches out of the image",
    "box-outside": "lies outside the image",
    "box-empty": "has no width or height, or is not finite",
}


def check_boxes(dataset: Dataset, source: str) -> tuple[Dataset, list[Finding]]:
    """Drop boxes without a size, and clamp those that reach out of their image.

    The box as it was is kept in the extra field `raw_bbox`, unless the source has one already;
    `area` stays as it is. Images of unknown size (width or height 0) clamp nothing on that side.
    """
    boxes_N4 = dataset.boxes_N4()
    limits_N2 = _image_limits(dataset)
    # A box may be too large for a sum in float64; it is no box, and no reason for a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        corners_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
        usable_N = np.isfinite(boxes_N4).all(axis=1) & np.isfinite(corners_N2).all(axis=1)
        usable_N &= (boxes_N4[:, 2:] > 0).all(axis=1)
        outside_N = (boxes_N4[:, :2] < 0).any(axis=1)
        outside_N |= (corners_N2 > limits_N2 + TOLERANCE).any(axis=1)
    names = {image.id: image.file_name for image in dataset.images}
    changed: dict[int, Annotation | None] = {}
    findings = []
    for index in np.flatnonzero(~usable_N | outside_N).tolist():
        annotation = dataset.annotations[index]
        clamped = _clamp(annotation, limits_N2[index]) if usable_N[index] else None
        changed[index] = clamped
        code = "box-clamped" if clamped else "box-outside" if usable_N[index] else "box-empty"
        name = names.get(annotation.image_id)
        findings.append(
            Finding(
                code,
                "warning",
                source,
                f"{name}: box {list(annotation.bbox)} {_BOX_PROBLEMS[code]}",
                "clamped" if clamped else "dropped",
                name,
                annotation.id,
            )
        )
    annotations = dataset.annotations
    if changed:
        every = (changed.get(index, a) for index, a in enumerate(annotations))
        annotations = [annotation for annotation in every if annotation is not None]
    return replace(dataset, annotations=annotations), findings


def _image_limits(dataset: Dataset) -> np.ndarray:
    """Width and height of the image of every annotation, infinite where unknown; float64 [N, 2]."""
    sides = np.array(
        [[i.width for i in dataset.images], [i.height for i in dataset.images]], dtype=np.float64
    )
    sides[sides <= 0] = np.inf
    row_of = {image.id: row for row, image in enumerate(dataset.images)}
    ids = [annotation.image_id for annotation in dataset.annotations]
    rows_N = np.fromiter(map(row_of.__getitem__, ids), np.intp, len(ids))
    return sides.T[rows_N]


def _clamp(annotation: Annotation, limits_2: np.ndarray) -> Annotation | None:
    """The part of the box inside the image, or None if there is none."""
    x, y, width, height = annotation.bbox
    left, new_width = _clamp_side(x, width, float(limits_2[0]))
    top, new_height = _clamp_side(y, height, float(limits_2[1]))
    if new_width <= 0 or new_height <= 0:
        return None
    clamped = msgspec.structs.replace(annotation, bbox=(left, top, new_width, new_height))
    if clamped.extra is UNSET or RAW_BBOX not in clamped.extra:
        set_extra(clamped, raw_bbox=annotation.bbox)
    return clamped


def _clamp_side(start: float, length: float, limit: float) -> tuple[float, float]:
    if start >= 0 and start + length <= limit + TOLERANCE:
        return start, length  # as it is: subtracting again would only round it
    end, start = min(start + length, limit), max(start, 0.0)
    return start, end - start
