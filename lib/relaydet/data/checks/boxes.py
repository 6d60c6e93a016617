"""Checks of boxes against their images: dropped where they are none, clamped where they reach out.

What is odd but possible (a box twice, a tiny one, one as large as its image) is told and kept.

Shape suffixes: N boxes, I images, 4 coordinates, 2 sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from msgspec import UNSET

from relaydet.data.checks.summing import first_of
from relaydet.data.dataset import Annotation, Dataset, set_extra
from relaydet.data.findings import Finding

RAW_BBOX = "raw_bbox"
# Boxes that reach out of the image by less are only rounded: x + width in binary floating point.
TOLERANCE = 1e-6

# Pixels. A side below two is less than one step of any detector's finest feature map, and in
# practice a slip of the mouse.
TINY_SIDE = 2.0
# Longer side / shorter side. Poles, skis and trains stay below; beyond, a corner is often wrong.
THIN_RATIO = 20.0
# Share of the image. Portraits reach 0.98; a default box or a label of the whole image is above.
WHOLE_IMAGE = 0.99
# `area` / box area. A mask lies inside its box, whose numbers COCO rounds to a 100th of a pixel.
AREA_RATIO = 1.01

_PROBLEMS = {
    "box-clamped": ("warning", "reaches out of the image"),
    "box-outside": ("warning", "lies outside the image"),
    "box-empty": ("warning", "has no width or height, or is not finite"),
    "box-duplicate": ("warning", "is there twice, of one category"),
    "box-tiny": ("info", f"has a side of less than {TINY_SIDE:g} pixels"),
    "box-thin": ("info", f"is more than {THIN_RATIO:g} times as long as wide"),
    "box-whole-image": ("info", f"covers more than {WHOLE_IMAGE:.0%} of the image"),
    "area-mismatch": ("info", "is smaller than the annotation's area, or that is not above 0"),
}


@dataclass(frozen=True)
class _Boxes:
    """The boxes of a dataset as arrays, coordinates first: numpy is faster along long rows."""

    boxes_4N: np.ndarray
    image_N: np.ndarray
    """Row of the image in `Dataset.images`."""
    limits_2N: np.ndarray
    """Width and height of the image; infinite where unknown."""
    inside_2N: np.ndarray
    """Width and height of what lies inside the image; 0 or less where there is nothing."""
    empty_N: np.ndarray
    """Whether it is no box at all."""
    usable_N: np.ndarray
    """Whether it is one, and something of it lies inside."""
    outside_N: np.ndarray
    """Whether it reaches out of the image."""


def check_boxes(
    dataset: Dataset, source: str, drop_duplicates: bool = False
) -> tuple[Dataset, list[Finding]]:
    """Drop boxes without a size, clamp those that reach out of their image, tell of odd ones.

    The box as it was is kept in the extra field `raw_bbox`, unless the source has one already;
    `area` stays as it is. Images of unknown size (width or height 0) clamp nothing on that side.
    Of each kind of finding at most a thousand are listed; one more counts the rest.

    Args:
        dataset: what was read, without dangling references.
        source: its name, for the findings.
        drop_duplicates: drop an annotation that equals an earlier one in all but its id. Of equal
            boxes with another area, mask or unknown key, all stay.
    """
    found = _measure(dataset)
    changed: dict[int, Annotation | None] = {
        row: _clamp(dataset.annotations[row], found.limits_2N[:, row])
        for row in np.flatnonzero(found.usable_N & found.outside_N).tolist()
    }
    changed |= dict.fromkeys(np.flatnonzero(~found.usable_N).tolist())
    repeated, again = _repeated(dataset, found)
    if drop_duplicates:
        changed |= dict.fromkeys(again)
    findings = _findings(dataset, source, found, repeated, again if drop_duplicates else [])
    if not changed:
        return dataset, findings
    every = (changed.get(index, a) for index, a in enumerate(dataset.annotations))
    annotations = [annotation for annotation in every if annotation is not None]
    return replace(dataset, annotations=annotations), findings


def _measure(dataset: Dataset) -> _Boxes:
    boxes_4N = np.ascontiguousarray(dataset.boxes_N4().T)
    image_N = dataset.image_rows_N
    images = dataset.images
    sides_2I = np.array([[i.width for i in images], [i.height for i in images]], np.float64)
    sides_2I[sides_2I <= 0] = np.inf
    limits_2N = np.stack([sides_2I[0][image_N], sides_2I[1][image_N]])
    starts_2N, lengths_2N = boxes_4N[:2], boxes_4N[2:]
    # A box may be too large for a sum in float64; it is no box, and no reason for a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        ends_2N = starts_2N + lengths_2N
        sound_2N = np.isfinite(ends_2N) & (lengths_2N > 0)
        beyond_2N = (starts_2N < 0) | (ends_2N > limits_2N + TOLERANCE)
        cut_2N = np.minimum(ends_2N, limits_2N) - np.maximum(starts_2N, 0.0)
        inside_2N = np.where(beyond_2N, cut_2N, lengths_2N)
    sound_N = sound_2N[0] & sound_2N[1]
    usable_N = sound_N & (inside_2N[0] > 0) & (inside_2N[1] > 0)
    outside_N = beyond_2N[0] | beyond_2N[1]
    return _Boxes(boxes_4N, image_N, limits_2N, inside_2N, ~sound_N, usable_N, outside_N)


def _repeated(dataset: Dataset, found: _Boxes) -> tuple[list[int], list[int]]:
    """Rows of boxes that an earlier one equals, in image, category, crowd flag and all sides.

    Returns:
        All of them; and those of which everything else is equal too.
    """
    seen: set[object] = set()
    seen_wholly: set[object] = set()
    repeated, again = [], []
    for row in _perhaps_equal(found):
        a = dataset.annotations[row]
        key = (a.image_id, a.category_id, a.iscrowd, a.bbox)
        mask = None if a.segmentation is UNSET else bytes(a.segmentation)
        extra = () if a.extra is UNSET else sorted((k, bytes(v)) for k, v in a.extra.items())
        whole = (key, a.area, mask, tuple(extra))
        if key in seen:
            repeated.append(row)
        if whole in seen_wholly:
            again.append(row)
        seen.add(key)
        seen_wholly.add(whole)
    return repeated, again


def _perhaps_equal(found: _Boxes) -> list[int]:
    """Rows of usable boxes whose image and sides have a hash that others have too."""
    # Adding 0 makes -0 the 0 that it equals. The factors are odd, so that no bit is lost.
    bits_4N = (found.boxes_4N + 0.0).view(np.uint64)
    hash_N = found.image_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for bits_N in bits_4N:
        hash_N = (hash_N ^ bits_N) * np.uint64(0xD6E8FEB86659FD93)
        hash_N ^= hash_N >> np.uint64(32)
    ordered = np.sort(hash_N)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not twice.size:
        return []
    return np.flatnonzero(np.isin(hash_N, twice) & found.usable_N).tolist()


def _findings(
    dataset: Dataset, source: str, found: _Boxes, repeated: list[int], dropped_again: list[int]
) -> list[Finding]:
    annotations, usable_N = dataset.annotations, found.usable_N
    rows_of = {
        "box-empty": _rows(found.empty_N),
        "box-outside": _rows(~(usable_N | found.empty_N)),
        "box-clamped": _rows(usable_N & found.outside_N),
        "box-duplicate": repeated,
        **_odd_sizes(dataset, found),
    }
    again = set(dropped_again)
    actions = {"box-empty": "dropped", "box-outside": "dropped", "box-clamped": "clamped"}

    def maker(code: str) -> Callable[[int], Finding]:
        severity, problem = _PROBLEMS[code]

        def make(row: int) -> Finding:
            dropped = code == "box-duplicate" and row in again
            action = "dropped" if dropped else actions.get(code, "kept")
            a, name = annotations[row], dataset.images[found.image_N[row]].file_name
            message = f"{name}: box {list(a.bbox)} {problem}"
            return Finding(code, severity, source, message, action, name, a.id)

        return make

    return [f for code, rows in rows_of.items() for f in first_of(rows, maker(code))]


def _odd_sizes(dataset: Dataset, found: _Boxes) -> dict[str, list[int]]:
    """Rows of the boxes that stay but have an unlikely size, by code; crowds may have any area."""
    annotations = dataset.annotations
    area_N = np.fromiter([a.area for a in annotations], np.float64, len(annotations))
    with np.errstate(invalid="ignore", over="ignore"):
        width_N, height_N = found.inside_2N
        short_N, long_N = np.minimum(width_N, height_N), np.maximum(width_N, height_N)
        box_area_N = found.boxes_4N[2] * found.boxes_4N[3]
        image_area_N = found.limits_2N[0] * found.limits_2N[1]
        whole_N = width_N * height_N > WHOLE_IMAGE * image_area_N
        mismatch_N = ~((area_N > 0) & (area_N <= AREA_RATIO * box_area_N))
        rows_of = {
            "box-tiny": _rows(found.usable_N & (short_N < TINY_SIDE)),
            "box-thin": _rows(found.usable_N & (long_N > THIN_RATIO * short_N)),
            "box-whole-image": _rows(found.usable_N & whole_N),
            "area-mismatch": _rows(found.usable_N & mismatch_N),
        }
    for code in ("box-whole-image", "area-mismatch"):
        rows_of[code] = [row for row in rows_of[code] if not annotations[row].iscrowd]
    return rows_of


def _rows(truth_N: np.ndarray) -> list[int]:
    rows: list[int] = np.flatnonzero(truth_N).tolist()
    return rows


def _clamp(annotation: Annotation, limits_2: np.ndarray) -> Annotation:
    """The part of the box inside the image, where there is one."""
    x, y, width, height = annotation.bbox
    left, new_width = _clamp_side(x, width, float(limits_2[0]))
    top, new_height = _clamp_side(y, height, float(limits_2[1]))
    clamped = msgspec.structs.replace(annotation, bbox=(left, top, new_width, new_height))
    if clamped.extra is UNSET or RAW_BBOX not in clamped.extra:
        set_extra(clamped, raw_bbox=annotation.bbox)
    return clamped


def _clamp_side(start: float, length: float, limit: float) -> tuple[float, float]:
    if start >= 0 and start + length <= limit + TOLERANCE:
        return start, length  # as it is: subtracting again would only round it
    end, start = min(start + length, limit), max(start, 0.0)
    return start, end - start
