"""The one in-memory type: a detection dataset in the terms of COCO.

Every format is read into a `Dataset`, and all later steps work on it. Its records are msgspec
structs because two hundred thousand of them are read and written at C speed that way, and because
`msgspec.Raw` keeps a value (a segmentation, an unknown key) as the very bytes of the input file.

Format: https://cocodataset.org/#format-data. Boxes are [x, y, width, height] in pixels, counted
from the left and upper edge of the image, which are 0.

Shape suffixes: N boxes, 4 coordinates.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

Id = int | str
Box = tuple[float, float, float, float]

# Key under which a record keeps what COCO does not define. It never reaches a file: writing
# spreads it back into the record.
EXTRA_KEY = "relaydet:extra"


class Category(msgspec.Struct, forbid_unknown_fields=True):
    """What an annotation is of."""

    id: Id
    name: str
    supercategory: str | UnsetType = UNSET
    extra: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name=EXTRA_KEY)


class Image(msgspec.Struct, forbid_unknown_fields=True):
    """One image; width and height in pixels, `file_name` relative to the source's image folder.

    After a merge `file_name` is "<source>/<path in that source>", `source` names the source and
    `source_id` is the id that the image had there.
    """

    id: Id
    file_name: str
    width: int
    height: int
    license: Raw | UnsetType = UNSET
    coco_url: Raw | UnsetType = UNSET
    flickr_url: Raw | UnsetType = UNSET
    date_captured: Raw | UnsetType = UNSET
    source: str | UnsetType = UNSET
    source_id: Id | UnsetType = UNSET
    extra: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name=EXTRA_KEY)


class Annotation(msgspec.Struct, forbid_unknown_fields=True):
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

    def boxes_N4(self) -> np.ndarray:
        """All boxes as float64 [N, 4]: x, y, width, height in pixels."""
        return np.array([a.bbox for a in self.annotations], dtype=np.float64).reshape(-1, 4)

    def annotations_by_image(self) -> dict[Id, list[Annotation]]:
        """Annotations of each image, by image id; images without any are absent."""
        groups: dict[Id, list[Annotation]] = defaultdict(list)
        for annotation in self.annotations:
            groups[annotation.image_id].append(annotation)
        return dict(groups)


def extra_fields(record: Record) -> dict[str, Any]:
    """The fields of a record that COCO does not define, decoded."""
    if record.extra is UNSET:
        return {}
    return {key: msgspec.json.decode(raw) for key, raw in record.extra.items()}


def set_extra(record: Record, **values: Any) -> None:
    """Add fields that COCO does not define to a record."""
    encoded = {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}
    record.extra = {**({} if record.extra is UNSET else record.extra), **encoded}
