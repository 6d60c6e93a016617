"""The one in-memory type: a detection dataset in the terms of COCO.

Every format is read into a `Dataset`, and all later steps work on it. Its records are msgspec
structs because two hundred thousand of them are read and written at C speed that way, and because
`msgspec.Raw` keeps a value (a segmentation, an unknown key) as the very bytes of the input file.
They hold no cycles, so Python's cyclic garbage collector need not know of them (gc=False).

Format: https://cocodataset.org/#format-data. Boxes are [x, y, width, height] in pixels, counted
from the left and upper edge of the image, which are 0.

Shape suffixes: N boxes, 4 coordinates.
"""

from __future__ import annotations

import gc
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

Id = int | str
Box = tuple[float, float, float, float]
# Pixels; 0 is unknown. The upper limit keeps numpy able to hold what a broken file may claim.
Side = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

# Key under which a record keeps what COCO does not define. It never reaches a file: writing
# spreads it back into the record.
EXTRA_KEY = "relaydet:extra"
# Ids may span so many numbers for each record, before a table of them takes too much memory.
SPARSEST = 8
LARGEST = 1 << 1000  # whole numbers beyond this may fit no float


class Category(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What an annotation is of."""

    id: Id
    name: str
    supercategory: str | UnsetType = UNSET
    extra: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name=EXTRA_KEY)


class Image(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One image; width and height in pixels, `file_name` relative to the source's image folder.

    Width and height are 0 while they are not known. After a merge `file_name` is
    "<source>/<path in that source>", `source` names the source and `source_id` is the id that the
    image had there.
    """

    id: Id
    file_name: str
    width: Side
    height: Side
    license: Raw | UnsetType = UNSET
    coco_url: Raw | UnsetType = UNSET
    flickr_url: Raw | UnsetType = UNSET
    date_captured: Raw | UnsetType = UNSET
    source: str | UnsetType = UNSET
    source_id: Id | UnsetType = UNSET
    extra: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name=EXTRA_KEY)


class Annotation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One object: bbox [x, y, width, height] and area in pixels; iscrowd 1 marks a group."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    area: float
    iscrowd: int = 0
    segmentation: Raw | UnsetType = UNSET
    extra: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name=EXTRA_KEY)


Record = Category | Image | Annotation


@dataclass(frozen=True)
class Dataset:
    """Images, their annotations and the categories, as plain lists of records."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    info: dict[str, Any] = field(default_factory=dict)
    licenses: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def image_rows_N(self) -> np.ndarray:
        """Place in `images` of the image of each annotation, -1 where it is not there; int64 [N].

        Worked out once: lists and ids of a dataset whose rows were asked for stay as they are.
        """
        return _image_rows(self.images, self.annotations)

    def knowing_rows(self, rows_N: np.ndarray) -> Dataset:
        """This dataset, told its `image_rows_N` by who knows them already."""
        self.__dict__["image_rows_N"] = rows_N
        return self

    def boxes_N4(self) -> np.ndarray:
        """All boxes as float64 [N, 4]: x, y, width, height in pixels."""
        # Flat: numpy takes twice as long over a list of tuples.
        numbers = chain.from_iterable([annotation.bbox for annotation in self.annotations])
        return np.fromiter(numbers, np.float64, 4 * len(self.annotations)).reshape(-1, 4)

    def annotations_by_image(self) -> dict[Id, list[Annotation]]:
        """Annotations of each image, by image id; images without any are absent."""
        groups: dict[Id, list[Annotation]] = defaultdict(list)
        for annotation in self.annotations:
            groups[annotation.image_id].append(annotation)
        return dict(groups)


def _image_rows(images: Sequence[Image], annotations: Sequence[Annotation]) -> np.ndarray:
    ids: list[Any] = [image.id for image in images]
    wanted: list[Any] = [annotation.image_id for annotation in annotations]
    try:
        # array refuses text, where numpy would take "1" for 1.
        ids_M, wanted_N = (np.frombuffer(array("q", i), np.int64) for i in (ids, wanted))
    except (TypeError, OverflowError):  # text, or too long
        ids_M = np.empty(0, np.int64)
    low, high = (int(ids_M.min()), int(ids_M.max())) if len(ids_M) else (0, -1)
    if not 0 <= high - low <= SPARSEST * (len(ids) + len(wanted)):
        row_of = {image_id: row for row, image_id in enumerate(ids)}
        return np.fromiter((row_of.get(i, -1) for i in wanted), np.int64, len(wanted))
    # Three times as fast as a dict, whose entries lie scattered in memory.
    row_of_id = np.full(high - low + 1, -1)
    row_of_id[ids_M - low] = np.arange(len(ids))
    inside_N = (wanted_N >= low) & (wanted_N <= high)
    rows_N = row_of_id[np.where(inside_N, wanted_N - low, 0)]
    return np.where(inside_N, rows_N, -1)


def extra_fields(record: Record) -> dict[str, Any]:
    """Return the fields of a record that COCO does not define, decoded as `decode_raw` does."""
    if record.extra is UNSET:
        return {}
    return {key: decode_raw(raw) for key, raw in record.extra.items()}


def decode_raw(raw: Raw | None) -> Any:
    """Return a value that is kept as its text.

    None where there is none, and where it cannot be looked into: nested too deeply, a number that
    nothing here can hold, a text with half of a character. Its text is still whole.
    """
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_corners(raw: Raw | None) -> list[float] | None:
    """Return four numbers that are kept as their text; None where they are not that."""
    value = decode_raw(raw)
    if not isinstance(value, list) or len(value) != 4:
        return None
    usual = all(type(n) in (int, float) and abs(n) < LARGEST for n in value)
    return value if usual else None


def set_extra(record: Record, **values: Any) -> None:
    """Add fields that COCO does not define to a record."""
    encoded = {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}
    record.extra = {**({} if record.extra is UNSET else record.extra), **encoded}


@contextmanager
def gc_paused() -> Iterator[None]:
    """Switch the cyclic garbage collector off while many records are made.

    Records hold no cycles, yet every few thousand new ones would make it walk all of them again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # There and back again, new objects count as old ones, and are not walked at once.
            if gc.get_freeze_count() == 0:
                gc.freeze()
                gc.unfreeze()
            gc.enable()
