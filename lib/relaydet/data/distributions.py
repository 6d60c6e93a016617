"""How the objects of each source are distributed: sizes, shapes, numbers and places.

A merge joins sources that may differ in all of these, and a detector trained on the one then does
badly on the other. Here are the numbers; `viewing.charts` draws them.

Shape suffixes: M images, N annotations, K objects, 2 x and y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relaydet.data.dataset import Dataset, Image


@dataclass(frozen=True, eq=False)
class Distribution:
    """The objects of one source, crowds excluded; arrays may be empty."""

    sizes_K: np.ndarray
    """sqrt(box area / image area), 0..1; of objects in images of known size."""
    aspects_K: np.ndarray
    """Box width / box height; finite and above 0."""
    centres_K2: np.ndarray
    """Centres of the boxes, x and y relative to the image, 0..1 from the left and upper edge; of
    objects in images of known size."""
    objects_M: np.ndarray
    """Number of objects in each image; int64."""


@dataclass(frozen=True, eq=False)
class Places:
    """Which source and image everything belongs to, as positions in arrays."""

    sources: tuple[str, ...]
    """Names, in the order of their first images; "" for images that name none."""
    source_M: np.ndarray
    """Position in `sources` of each image's source; int64."""
    image_N: np.ndarray
    """Position in `dataset.images` of each annotation's image; int64."""


def places(dataset: Dataset) -> Places:
    """Find the source of every image and the image of every annotation.

    Every annotation must be of an image in the dataset (`checks.structure`).
    """
    names = [image.source or "" for image in dataset.images]
    position_of = {name: position for position, name in enumerate(dict.fromkeys(names))}
    return Places(
        tuple(position_of),
        np.fromiter(map(position_of.__getitem__, names), np.int64, len(names)),
        dataset.image_rows_N,
    )


def distributions(dataset: Dataset) -> dict[str, Distribution]:
    """Distributions of the objects of each source, in the order of the sources' first images.

    A source without objects has empty arrays and zeros in `objects_M`. Objects in images of unknown
    size (width or height 0) count in `aspects_K` and `objects_M` alone.
    """
    where = places(dataset)
    crowd_N = np.array([a.iscrowd for a in dataset.annotations], dtype=bool)
    image_K = where.image_N[~crowd_N]
    boxes_K4 = dataset.boxes_N4()[~crowd_N]
    sides_K2 = _sides(dataset.images)[image_K]
    objects_M = np.bincount(image_K, minlength=len(dataset.images))
    result = {}
    for number, name in enumerate(where.sources):
        mine_K = where.source_M[image_K] == number
        result[name] = _distribution(
            boxes_K4[mine_K], sides_K2[mine_K], objects_M[where.source_M == number]
        )
    return result


def _distribution(
    boxes_K4: np.ndarray, sides_K2: np.ndarray, objects_M: np.ndarray
) -> Distribution:
    # In an image of unknown size nothing limits a box: its numbers may be too large to divide.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        aspects_K = boxes_K4[:, 2] / boxes_K4[:, 3]
    aspects_K = aspects_K[np.isfinite(aspects_K) & (aspects_K > 0)]
    known_K = (sides_K2 > 0).all(axis=1)
    boxes_K4, sides_K2 = boxes_K4[known_K], sides_K2[known_K]
    relative_K2 = boxes_K4[:, 2:] / sides_K2
    centres_K2 = (boxes_K4[:, :2] + boxes_K4[:, 2:] / 2) / sides_K2
    return Distribution(np.sqrt(relative_K2.prod(axis=1)), aspects_K, centres_K2, objects_M)


def _sides(images: Sequence[Image]) -> np.ndarray:
    """Width and height of each image in pixels: float64 [M, 2]."""
    widths, heights = [image.width for image in images], [image.height for image in images]
    return np.array([widths, heights], dtype=np.float64).T
