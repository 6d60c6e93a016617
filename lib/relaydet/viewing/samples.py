"""A dataset drawn, to judge by eye that it was read right.

Shape suffixes: H height, W width, C channels, K objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from PIL import Image as Pillow
from PIL import ImageDraw

from relaydet.data.checks.boxes import RAW_BBOX
from relaydet.data.dataset import Annotation, Category, Dataset, Image, decode_corners
from relaydet.data.images import Images, decode_rgb
from relaydet.errors import RelayError
from relaydet.viewing.draw import (
    PALETTE,
    DrawnBox,
    Key,
    colour_of,
    contact_sheet,
    draw_boxes,
    message_tile,
    side_by_side,
    with_legend,
)

# Of the offset check: pixels on screen for one of the image; the width and height that are seen at
# most, and the margin around a box, in pixels of the image.
_ZOOM = 8
_SEEN = (48, 80)
_MARGIN = 5
_AS_READ, _AS_STORED = PALETTE[0], PALETTE[6]
# Smaller boxes are hardly more than noise.
_SMALLEST = 10


@dataclass(frozen=True)
class Legend:
    """The names and colours of the categories of a dataset."""

    categories: Sequence[Category]

    def boxes(self, annotations: Iterable[Annotation]) -> list[DrawnBox]:
        """Annotations as boxes in the colour of their category; crowds are hatched."""
        place_of = {category.id: place for place, category in enumerate(self.categories)}
        several = len(self.categories) > 1
        boxes = []
        for annotation in annotations:
            place = place_of[annotation.category_id]
            label = self.categories[place].name if several else ""
            crowd = bool(annotation.iscrowd)
            boxes.append(DrawnBox(annotation.bbox, colour_of(place + 1), label, hatched=crowd))
        return boxes

    def keys(self, annotations: Iterable[Annotation]) -> list[Key]:
        """What has to be said about the colours and the hatching of these annotations."""
        annotations = list(annotations)
        used = {annotation.category_id for annotation in annotations}
        keys = []
        if len(self.categories) > 1:
            places = [p for p, category in enumerate(self.categories) if category.id in used]
            keys = [Key(self.categories[p].name, colour_of(p + 1)) for p in places]
        if any(annotation.iscrowd for annotation in annotations):
            keys.append(Key("crowd", (128, 128, 128), hatched=True))
        return keys


def name_in_source(image: Image) -> str:
    """File name of an image of a merged dataset within its source."""
    return image.file_name.removeprefix(f"{image.source}/")


def read_pixels(images: Mapping[str, Images], image: Image) -> np.ndarray:
    """The pixels of an image of a merged dataset, uint8 [H, W, 3].

    Raises:
        RelayError: the image cannot be read, or nobody said where its source's images are.
    """
    source = image.source or ""
    if source not in images:
        raise RelayError(
            f"{image.file_name}: it is not known where the images of source {source!r} are; give"
            " their place."
        )
    return decode_rgb(images[source].read(name_in_source(image)), image.file_name)


def sample_sheet(
    dataset: Dataset, folders: Mapping[str, Images], source: str, count: int = 8
) -> Pillow.Image:
    """Some annotated images of one source of a merged dataset, evenly spaced over it.

    Boxes are coloured by category, with a legend where there are several; crowd regions are
    hatched.

    Args:
        dataset: a merged dataset.
        folders: where each source's images are.
        source: which source to show.
        count: how many images. In place of one that cannot be read stands why.
    """
    by_image = dataset.annotations_by_image()
    images = [i for i in dataset.images if i.source == source and i.id in by_image]
    chosen = [images[place] for place in _evenly(len(images), count)]
    legend = Legend(dataset.categories)
    pictures = [_tile(folders, i, legend.boxes(by_image[i.id])) for i in chosen]
    sheet = contact_sheet(pictures, [image.file_name for image in chosen])
    return with_legend(sheet, legend.keys(a for i in chosen for a in by_image[i.id]))


def overview_sheet(
    dataset: Dataset, folders: Mapping[str, Images], count: int = 8, note: str = ""
) -> Pillow.Image:
    """Some images of a merged dataset, of every source as many, drawn like `sample_sheet`.

    Annotated images come first. In place of an image that cannot be read stands why.

    Args:
        dataset: a merged dataset.
        folders: where each source's images are.
        count: how many images; of more sources than that, an even choice is shown.
        note: a line to write below.
    """
    by_image = dataset.annotations_by_image()
    chosen = _of_every_source(dataset.images, by_image.keys(), count)
    legend = Legend(dataset.categories)
    pictures = [_tile(folders, i, legend.boxes(by_image.get(i.id, []))) for i in chosen]
    if not pictures:
        pictures, captions = [message_tile("The dataset has no images.")], [""]
    else:
        captions = [image.file_name for image in chosen]
    keys = legend.keys(a for image in chosen for a in by_image.get(image.id, []))
    sheet = with_legend(contact_sheet(pictures, captions), keys)
    return contact_sheet([sheet], [note]) if note else sheet


def offset_sheet(
    dataset: Dataset, folders: Mapping[str, Images], source: str, count: int = 6
) -> Pillow.Image | None:
    """Small objects magnified, with the box as read and as stored: does the offset fit?

    A source whose pixels are counted from 1 is read with an offset (`SourceConfig.offset`), and
    keeps the stored box in the extra field `raw_bbox`. Small boxes are shown 8 times enlarged, each
    as read on the left and as stored on the right: the right one of the two leaves as much room on
    one side of the object as on the other.

    Args:
        dataset: a merged dataset.
        folders: where each source's images are.
        source: which source to show.
        count: how many boxes, each in an image of its own.

    Returns:
        The sheet, or None where no box of the source was moved.
    """
    images = {image.id: image for image in dataset.images if image.source == source}
    moved = [
        (a, raw) for a in dataset.annotations if a.image_id in images and (raw := _moved_from(a))
    ]
    if not moved:
        return None
    # At the image's edge a box is cut off, and says less.
    clear = [(a, raw) for a, raw in moved if _is_clear(a.bbox, images[a.image_id])]
    chosen = _smallest(clear or moved, count)
    pictures = [_offset_tile(folders, images[a.image_id], a, raw) for a, raw in chosen]
    captions = [name_in_source(images[a.image_id]) for a, _ in chosen]
    (a, raw), *_ = chosen
    shift = f"{raw[0] - a.bbox[0]:+g}, {raw[1] - a.bbox[1]:+g} pixels"
    keys = [Key("as read (used)", _AS_READ), Key(f"as stored ({shift})", _AS_STORED)]
    return with_legend(contact_sheet(pictures, captions, columns=3), keys)


def _tile(folders: Mapping[str, Images], image: Image, boxes: Sequence[DrawnBox]) -> Pillow.Image:
    """An image with boxes, or why it cannot be read: some files only break when decoded."""
    try:
        return draw_boxes(read_pixels(folders, image), boxes)
    except RelayError as error:
        return message_tile(str(error))


def _offset_tile(
    folders: Mapping[str, Images], image: Image, annotation: Annotation, raw: Sequence[float]
) -> Pillow.Image:
    try:
        return _magnified(read_pixels(folders, image), annotation.bbox, raw)
    except RelayError as error:
        return message_tile(str(error))


def _evenly(length: int, count: int) -> list[int]:
    """Positions 0..length-1, at most `count` of them, evenly spaced."""
    places = np.linspace(0, length - 1, min(count, length)).round().astype(int)
    return np.unique(places).tolist()


def _of_every_source(images: Sequence[Image], annotated: Iterable, count: int) -> list[Image]:
    """Images of each source evenly spaced, annotated ones if it has any."""
    with_objects = set(annotated)
    groups: dict[str, list[Image]] = {}
    for image in images:
        groups.setdefault(image.source or "", []).append(image)
    shown = [list(groups.values())[place] for place in _evenly(len(groups), count)]
    chosen = []
    for number, group in enumerate(shown):
        candidates = [image for image in group if image.id in with_objects] or group
        share = count // len(shown) + (number < count % len(shown))
        chosen += [candidates[place] for place in _evenly(len(candidates), share)]
    return chosen


def _moved_from(annotation: Annotation) -> tuple[float, ...] | None:
    """The stored box where reading only moved it: other boxes there were clamped as well."""
    extra = {} if annotation.extra is UNSET else annotation.extra
    raw = decode_corners(extra.get(RAW_BBOX))
    if raw is None:
        return None
    stored = tuple(map(float, raw))
    same_size = stored[2:] == tuple(annotation.bbox[2:])
    return stored if same_size and stored != tuple(annotation.bbox) else None


def _is_clear(bbox: Sequence[float], image: Image) -> bool:
    x, y, width, height = bbox
    return 2 <= x <= image.width - width - 2 and 2 <= y <= image.height - height - 2


def _smallest(
    moved: Sequence[tuple[Annotation, tuple[float, ...]]], count: int
) -> list[tuple[Annotation, tuple[float, ...]]]:
    """Some of the smallest boxes that still show something, one of an image."""
    ordered = sorted(moved, key=lambda m: (min(m[0].bbox[2:]) < _SMALLEST, m[0].bbox[2]))
    of_image = {annotation.image_id: (annotation, raw) for annotation, raw in reversed(ordered)}
    every = list(of_image.values())[::-1]
    few = every[: max(count, len(every) // 4)]
    return [few[place] for place in _evenly(len(few), count)]


def _magnified(image_HWC: np.ndarray, bbox: Sequence[float], raw: Sequence[float]) -> Pillow.Image:
    """A box as read and, beside it, as stored: enlarged without smoothing, or its upper part."""
    # The file may have been exchanged for a smaller one: something of it is shown all the same.
    height, width = image_HWC.shape[:2]
    left = int(np.clip(min(bbox[0], raw[0]) - _MARGIN, 0, width - 1))
    top = int(np.clip(min(bbox[1], raw[1]) - _MARGIN, 0, height - 1))
    right = left + min(_SEEN[0], int(bbox[2]) + 2 * _MARGIN + 1)
    bottom = top + min(_SEEN[1], int(bbox[3]) + 2 * _MARGIN + 1)
    seen = Pillow.fromarray(image_HWC[top:bottom, left:right])
    pair = []
    for (x, y, w, h), colour in ((bbox, _AS_READ), (raw, _AS_STORED)):
        size = (seen.width * _ZOOM, seen.height * _ZOOM)
        picture = seen.resize(size, Pillow.Resampling.NEAREST)
        # Around the pixels that the box holds: the last ones are those before x + w and y + h.
        x1, y1, x2, y2 = (_ZOOM * v for v in (x - left, y - top, x + w - left, y + h - top))
        corners = (x1 - 2, y1 - 2, x2 + 1, y2 + 1)
        ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=2)
        pair.append(picture)
    return side_by_side(pair)
