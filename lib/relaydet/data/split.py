"""Splitting a merged dataset: parts that look alike, and never the same image in two of them.

Shape suffixes: M images, N annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import compress
from typing import Any

import numpy as np
from msgspec.structs import replace

from relaydet.config import check_name
from relaydet.data.dataset import Dataset, gc_paused
from relaydet.data.narrow import name_bits
from relaydet.errors import RelayError

REST = ""
# Fractions that miss 1 by less are meant to be 1: 0.7 + 0.2 + 0.1 is not, in binary.
TOLERANCE = 1e-9
# Images are told apart by the size of their objects: no objects, and so many equally large classes.
SIZE_CLASSES = 3
# Part of the random key, so that no other draw by name goes the same way.
DRAW = 2


def parse_split(entries: Sequence[str]) -> dict[str, float]:
    """Read entries like "val=0.1": the part's name, and the fraction of the images it gets.

    Raises:
        RelayError: an entry is not of that form, a name cannot be a folder's or comes twice, a
            fraction is not above 0, or they add up to more than 1.
    """
    fractions: dict[str, float] = {}
    for entry in entries:
        name, _, number = (text.strip() for text in entry.partition("="))
        check_name("SPLIT", name)
        try:
            fraction = float(number)
        except ValueError:
            fraction = 0.0
        if not 0 < fraction <= 1:
            raise RelayError(
                f"SPLIT: {entry!r} should be a name and a fraction above 0 and at most 1, such as"
                " val=0.1."
            )
        if name in fractions:
            raise RelayError(f"SPLIT: {name!r} comes twice; give each part its own name.")
        fractions[name] = fraction
    if sum(fractions.values()) > 1 + TOLERANCE:
        raise RelayError(
            f"SPLIT: {', '.join(entries)} add up to {sum(fractions.values()):g}; take at most 1."
        )
    return fractions


def split(
    dataset: Dataset,
    fractions: Mapping[str, float],
    groups: Sequence[Sequence[str]] = (),
    seed: int = 0,
) -> dict[str, Dataset]:
    """Split a merged dataset into parts with the same mixture of sources and object sizes.

    The images of each source are put in classes by the median relative size of their objects (box
    area / image area; three equally large classes, and one without objects), each class in random
    order. Along that sequence every image, with all that are grouped with it, goes to the part that
    lacks most. With two parts and no groups that gives each class, each source and the whole their
    fraction to within one image.

    The random order is a pure function of `seed` and the file names: a source that comes after the
    others leaves their images in the parts they were in, unless it has duplicates of those.

    Args:
        dataset: what `merge` gave; it is not altered.
        fractions: part of the images for each name, each above 0, at most 1 in all.
        groups: file names of images that belong in one part, such as duplicates. Groups may have
            images in common; names that are not in the dataset do not count. Images of one file
            name are grouped anyway.
        seed: of the random order.

    Returns:
        By name, and "" for the rest unless the fractions add up to 1: datasets with ids from 1,
        categories and licences as they were, and `info.split` {part, fraction, seed}.

    Raises:
        RelayError: a part would get no image.
    """
    shares = dict(fractions)
    rest = round(1 - sum(shares.values()), 9)
    if rest > TOLERANCE:
        shares[REST] = rest
    rows_N = dataset.image_rows_N
    stratum_M = _strata(dataset, rows_N)
    part_M = _assign(dataset, stratum_M, list(shares.values()), groups, seed)
    counts = np.bincount(part_M, minlength=len(shares))
    for name, count in zip(shares, counts, strict=True):
        if not count:
            what = f"the part {name!r}" if name else "the rest"
            raise RelayError(
                f"SPLIT: {what} would get none of the {len(part_M)} images at a fraction of"
                f" {shares[name]:g}; choose other fractions, or merge more images."
            )
    with gc_paused():
        return {
            name: _cut(
                dataset, part_M == number, rows_N, {"part": name, "fraction": share, "seed": seed}
            )
            for number, (name, share) in enumerate(shares.items())
        }


def _assign(
    dataset: Dataset,
    stratum_M: np.ndarray,
    shares: list[float],
    groups: Sequence[Sequence[str]],
    seed: int,
) -> np.ndarray:
    """Number of the part of every image; int64 [M]."""
    names = [image.file_name for image in dataset.images]
    # Ties, of which hashes leave few, go by place.
    order = np.lexsort((name_bits(names, seed, DRAW), stratum_M)).tolist()
    members = _members(names, groups)
    parts = [-1] * len(names)
    given = [0] * len(shares)
    so_far = 0
    for row in order:
        if parts[row] >= 0:
            continue
        rows = members.get(row, (row,))
        so_far += len(rows)
        lacking = [share * so_far - count for share, count in zip(shares, given, strict=True)]
        part = lacking.index(max(lacking))
        given[part] += len(rows)
        for together in rows:
            parts[together] = part
    return np.array(parts, np.int64)


def _members(names: Sequence[str], groups: Iterable[Sequence[str]]) -> dict[int, Sequence[int]]:
    """The rows in the group of each row, where that is more than itself."""
    first_row: dict[str, int] = {}
    leader = [first_row.setdefault(name, row) for row, name in enumerate(names)]
    for group in groups:
        rows = [first_row[name] for name in group if name in first_row]
        for row in rows[1:]:
            leader[_leader(leader, row)] = _leader(leader, rows[0])
    together: dict[int, list[int]] = {}
    for row, above in enumerate(leader):
        if row != above:
            together.setdefault(_leader(leader, row), []).append(row)
    return {row: [top, *rows] for top, rows in together.items() for row in (top, *rows)}


def _leader(leader: list[int], row: int) -> int:
    """The one row that stands for a group; halves the way to it, so that the next is short."""
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = leader[row]
    return row


def _strata(dataset: Dataset, rows_N: np.ndarray) -> np.ndarray:
    """Number of the class that each image is in, by source and size of objects; int64 [M]."""
    numbers: dict[str, int] = {}
    source_M = np.array(
        [numbers.setdefault(str(i.source or ""), len(numbers)) for i in dataset.images], np.int64
    )
    size_M = _median_sizes(dataset, rows_N)
    class_M = np.zeros(len(source_M), np.int64)
    for source in range(len(numbers)):
        with_object_M = (source_M == source) & ~np.isnan(size_M)
        sizes_R = np.sort(size_M[with_object_M])
        if not len(sizes_R):
            continue
        # Sizes that occur, rather than between two: no rounding moves an image across.
        last_of_class = np.arange(1, SIZE_CLASSES) * len(sizes_R) // SIZE_CLASSES - 1
        limits = sizes_R[last_of_class.clip(0)]
        class_M[with_object_M] = 1 + np.searchsorted(limits, size_M[with_object_M], side="left")
    return source_M * (SIZE_CLASSES + 1) + class_M


def _median_sizes(dataset: Dataset, rows_N: np.ndarray) -> np.ndarray:
    """Lower median of box area / image area in each image, crowds apart; float64 [M].

    NaN where there is no object, or the image's size is not known.
    """
    area_M = np.array([image.width * image.height for image in dataset.images], np.float64)
    crowd_N = np.array([a.iscrowd != 0 for a in dataset.annotations], bool)
    counts_N = ~crowd_N & (area_M[rows_N] > 0)
    boxes_R4, rows_R = dataset.boxes_N4()[counts_N], rows_N[counts_N]
    size_R = boxes_R4[:, 2] * boxes_R4[:, 3] / area_M[rows_R]
    size_R = size_R[np.lexsort((size_R, rows_R))]
    number_M = np.bincount(rows_R, minlength=len(area_M))
    middle_M = np.cumsum(number_M) - number_M + (number_M - 1) // 2
    sizes_M = np.full(len(area_M), np.nan)
    sizes_M[number_M > 0] = size_R[middle_M[number_M > 0]]
    return sizes_M


def _cut(
    dataset: Dataset, taken_M: np.ndarray, rows_N: np.ndarray, about: dict[str, Any]
) -> Dataset:
    """Copies of the images taken and of their annotations, numbered from 1."""
    taken_N = taken_M[rows_N]
    image_ids = np.cumsum(taken_M)[rows_N[taken_N]].tolist()
    images = compress(dataset.images, taken_M)
    annotations = compress(dataset.annotations, taken_N)
    return Dataset(
        [replace(image, id=number) for number, image in enumerate(images, start=1)],
        [
            replace(annotation, id=number, image_id=image_id)
            for number, (annotation, image_id) in enumerate(
                zip(annotations, image_ids, strict=True), start=1
            )
        ],
        [replace(category) for category in dataset.categories],
        {**deepcopy(dataset.info), "split": about},
        deepcopy(dataset.licenses),
    )
