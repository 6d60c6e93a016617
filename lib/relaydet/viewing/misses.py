"""Crops of what detectors do differently: small objects that one of two missed, false alarms.

Shape suffixes: N annotations, D detections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from relaydet.data.loader import Samples
from relaydet.data.statistics import MEDIUM_AREA
from relaydet.evaluation.error_analysis import FalseAlarm
from relaydet.evaluation.records import Detections, Truth
from relaydet.viewing.draw import (
    GREEN,
    ORANGE,
    RED,
    DrawnBox,
    contact_sheet,
    draw_boxes,
    message_tile,
    side_by_side,
)

_TILE, _ALARM_TILE = 144, 216
"""Pixels of a crop's side on the sheet; a false alarm's caption is longer."""
_CONTEXT = 2.5
"""A crop's side, in larger sides of its box."""
_LEAST = 48
"""A crop's side in pixels of the image, at least."""
_BEYOND = 235
"""Grey of what is beyond the image."""
_COLUMNS, _ALARM_COLUMNS = 3, 4

MISSES_LEGEND = (
    "small objects that one of the two found and the other missed, from small to large: {first} on"
    " the left of each pair, {second} on the right (green found, red missed, orange what was"
    " detected). Each drops what scores below its best F1: {scores}."
)
ALARMS_LEGEND = (
    "the false alarms with the highest scores, orange; outlined in green are labelled objects. "
)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two detectors of a sheet."""

    name: str
    found: Detections
    found_N: np.ndarray
    """Which annotations it found; bool."""
    min_score: float
    """Detections below are not drawn."""


def misses_sheet(
    samples: Samples, truth: Truth, first: Side, second: Side, count: int = 24
) -> Image.Image:
    """Pairs of crops: small objects that only one of two detectors found.

    Half of the sheet is what the second alone found, half what the first alone did; where one has
    fewer, the other has more.

    Args:
        samples: the dataset's images.
        truth: the dataset.
        first: shown on the left of each pair.
        second: shown on the right.
        count: how many pairs at most.
    """
    small_N = ~truth.crowd_N & (truth.area_N < MEDIUM_AREA)
    gained = _by_size(truth, small_N & second.found_N & ~first.found_N)
    lost = _by_size(truth, small_N & first.found_N & ~second.found_N)
    half = count // 2
    some = max(half, count - min(half, len(lost)))
    chosen = [*_spread(gained, some), *_spread(lost, count - min(some, len(gained)))]
    if not chosen:
        return message_tile("no small object that only one of them found")
    reader = _Reader(samples, truth)
    several = len(truth.category_names) > 1
    tiles, captions = [], []
    for row in chosen:
        tiles.append(side_by_side([_object(reader, truth, row, side) for side in (first, second)]))
        side = np.sqrt(truth.area_N[row])
        winner = second if second.found_N[row] else first
        image = truth.image_ids[truth.image_N[row]]
        what = f"{truth.category_names[truth.category_N[row]]}, " if several else ""
        captions.append(f"{what}{side:.0f} px, found by {winner.name}, image {image}")
    return contact_sheet(tiles, captions, _COLUMNS)


def alarms_sheet(
    samples: Samples, truth: Truth, alarms: Sequence[FalseAlarm], count: int = 24
) -> Image.Image:
    """Crops of the false alarms with the highest scores.

    Args:
        samples: the dataset's images.
        truth: the dataset.
        alarms: of `false_alarms`.
        count: how many at most.
    """
    if not alarms:
        return message_tile("no false alarm")
    reader = _Reader(samples, truth)
    tiles, captions = [], []
    for alarm in alarms[:count]:
        here = np.flatnonzero((truth.image_N == alarm.image) & ~truth.crowd_N)
        boxes = [DrawnBox(truth.boxes_N4[row].tolist(), GREEN) for row in here]
        boxes.append(DrawnBox(alarm.box, ORANGE))
        tiles.append(_crop(reader.read(alarm.image), alarm.box, boxes, _ALARM_TILE))
        name = truth.category_names[alarm.category]
        likely = f"likely an unlabelled {name}" if alarm.likely_unlabelled else name
        captions.append(f"{alarm.score:.2f} {likely}")
    return contact_sheet(tiles, captions, _ALARM_COLUMNS)


class _Reader:
    """Reads the images of a dataset by their row in `Truth`; keeps the last one."""

    def __init__(self, samples: Samples, truth: Truth) -> None:
        index_of = {int(image): index for index, image in enumerate(samples.image_ids_M)}
        self._indices = [index_of[image] for image in truth.image_ids]
        self._samples = samples
        self._last: tuple[int, np.ndarray] | None = None

    def read(self, row: int) -> np.ndarray:
        if self._last is None or self._last[0] != row:
            self._last = (row, self._samples.read(self._indices[row]))
        return self._last[1]


def _by_size(truth: Truth, wanted_N: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(wanted_N)
    return rows[np.argsort(truth.area_N[rows], kind="stable")]


def _spread(rows: np.ndarray, count: int) -> list[int]:
    """So many of the rows, evenly spread over them."""
    if not len(rows) or count < 1:
        return []
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
    return rows[places].tolist()


def _object(reader: _Reader, truth: Truth, row: int, side: Side) -> Image.Image:
    """An object, and what one detector says there."""
    image = int(truth.image_N[row])
    here = np.flatnonzero((side.found.image_D == image) & (side.found.score_D >= side.min_score))
    boxes = [DrawnBox(side.found.boxes_D4[place].tolist(), ORANGE) for place in here]
    box = truth.boxes_N4[row].tolist()
    boxes.append(DrawnBox(box, GREEN if side.found_N[row] else RED))
    return _crop(reader.read(image), box, boxes)


def _crop(
    image_HWC: np.ndarray, around: Sequence[float], boxes: Sequence[DrawnBox], tile: int = _TILE
) -> Image.Image:
    """A square of the image around a box, enlarged to a tile, with boxes on it.

    At an edge the square is moved into the image. It is larger than the image's shorter side only
    where a box is so too; what is beyond the image is then grey.
    """
    height, width = image_HWC.shape[:2]
    x, y, w, h = around
    side = min(max(_LEAST, round(_CONTEXT * max(w, h))), height, width)
    seen = max(min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0))
    side = max(side, math.ceil(seen))
    left, top = _start(x + w / 2, side, width), _start(y + h / 2, side, height)
    square_HWC = np.full((side, side, 3), _BEYOND, np.uint8)
    part_HWC = image_HWC[max(top, 0) : top + side, max(left, 0) : left + side]
    down, right = max(-top, 0), max(-left, 0)
    square_HWC[down : down + part_HWC.shape[0], right : right + part_HWC.shape[1]] = part_HWC
    moved = [
        DrawnBox((b.xywh[0] - left, b.xywh[1] - top, *b.xywh[2:]), b.colour, b.label) for b in boxes
    ]
    return draw_boxes(square_HWC, moved, tile)


def _start(middle: float, side: int, length: int) -> int:
    """Where a square starts in an image so long: within it, or with the image in its middle."""
    if side > length:
        return (length - side) // 2
    return int(np.clip(round(middle - side / 2), 0, length - side))
