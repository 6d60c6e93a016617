"""YOLO, written as a detection dataset: a box per line. See `yolo` for the format.

    labels/<source>/<path>.txt    an empty file where an image has no object; once more where
                                  Ultralytics seeks it, if a folder in <path> is called images
    data.yaml                     the classes, counted from 0, and `images` as train and val
    images.txt                    "<source>/<path>" of each image, one a line

It is ready to train on once the images lie in, or are linked into, images/<source> beside labels.
A line that came from a YOLO file is written as it was while its box is still the same. Polygons are
written as their boxes: Ultralytics takes every line of a file for a polygon as soon as one is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import yaml
from msgspec import UNSET

from relaydet.data.dataset import Annotation, Box, Dataset, Image
from relaydet.data.findings import Finding
from relaydet.data.formats.text import check_listable, is_unicode, number, without_suffix
from relaydet.errors import RelayError

RAW_YOLO = "raw_yolo"
_HEAD = """\
# Put or link the images of each source at images/<source>; images.txt lists them.
# train and val are the same images: divide them before you rely on val.
"""
_NOTES = {
    "yolo-crowd": ("warning", "crowds, which YOLO would take for single objects", "left out"),
    "yolo-size-unknown": (
        "warning",
        "images have no known width and height, so no fractions of them",
        "left out",
    ),
    "yolo-images-folder": (
        "warning",
        "images lie in a folder called images, for which Ultralytics seeks labels beside it",
        "labels written there too, below images",
    ),
    "yolo-polygon": ("info", "objects have a segmentation", "box written"),
    "yolo-area": ("info", "objects have an area that is not their box's", "left out"),
    "yolo-extra": ("info", "images and objects have keys that YOLO does not have", "left out"),
    "yolo-licence": ("info", "images have a licence or an address", "left out"),
    "yolo-category": ("info", "categories have fields besides their name", "left out"),
}


def bbox_of(fractions: Sequence[float], width: int, height: int) -> Box:
    """The box [x, y, width, height] in pixels of cx, cy, w and h in an image of that size."""
    cx, cy, w, h = fractions
    return (cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height


def write(dataset: Dataset, put: Callable[[str, bytes], None]) -> list[Finding]:
    """Write a merged dataset; its boxes and areas are finite.

    Args:
        dataset: file names are "<source>/<path in that source>".
        put: stores the bytes of a file under a relative name.

    Returns:
        What YOLO cannot hold, one finding of each kind.

    Raises:
        RelayError: two images would share a label file, or a name cannot be written into a list.
    """
    _check_names(dataset)
    counts: Counter[str] = Counter()
    by_image = dataset.annotations_by_image()
    classes = {category.id: place for place, category in enumerate(dataset.categories)}
    listed = []
    for image in dataset.images:
        if not (image.width and image.height):
            counts["yolo-size-unknown"] += 1
            continue
        lines = []
        for annotation in by_image.get(image.id, ()):
            if not annotation.iscrowd:
                numbers = _numbers(annotation, image)
                lines.append(f"{classes[annotation.category_id]} {numbers}\n")
        for path in _label_paths(image.file_name):
            put(path, "".join(lines).encode())
        listed.append(image.file_name)
    put("images.txt", "".join(f"{name}\n" for name in listed).encode())
    names = {place: category.name for place, category in enumerate(dataset.categories)}
    content = {"train": "images", "val": "images", "names": names}
    # Unescaped, YAML would read its own line ends in a name as a space.
    plain = not any(end in name for name in names.values() for end in "\x85\u2028\u2029")
    text = yaml.safe_dump(content, allow_unicode=plain, sort_keys=False, width=float("inf"))
    put("data.yaml", f"{_HEAD}{text}".encode())
    _count_losses(dataset, counts)
    return [
        Finding(code, severity, "", f"{counts[code]} {what}", action)
        for code, (severity, what, action) in _NOTES.items()
        if counts[code]
    ]


def _check_names(dataset: Dataset) -> None:
    holders: dict[str, str] = {}
    for image in dataset.images:
        check_listable(image.file_name, "yolo")
        stem = without_suffix(image.file_name)
        if stem in holders:
            raise RelayError(
                f"yolo: {holders[stem]} and {image.file_name} would share the label file"
                f" {stem}.txt; rename one of them, or leave yolo out of FORMATS."
            )
        holders[stem] = image.file_name
    for category in dataset.categories:
        if not is_unicode(category.name):
            raise RelayError(f"yolo: the category name {category.name!r} is not text; rename it.")


def _label_paths(name: str) -> list[str]:
    """Where to write the labels of an image: in labels, and where Ultralytics seeks them."""
    stem = without_suffix(name)
    *folders, last = stem.split("/")
    own = f"labels/{stem}.txt"
    if "images" not in folders:
        return [own]
    # Its rule: in the path images/<name>, the last folder called images becomes labels.
    at = len(folders) - 1 - folders[::-1].index("images")
    return [own, "/".join(["images", *folders[:at], "labels", *folders[at + 1 :], f"{last}.txt"])]


def _numbers(annotation: Annotation, image: Image) -> str:
    """Centre and size of a box as fractions: as they were read, where that is the same box."""
    tokens = _raw_tokens(annotation)
    values = [number(token) for token in tokens]
    fractions = [value for value in values if value is not None]
    is_box = len(fractions) == len(values) == 4
    if is_box and bbox_of(fractions, image.width, image.height) == annotation.bbox:
        return " ".join(tokens)
    x, y, width, height = annotation.bbox
    centre = ((x + width / 2) / image.width, (y + height / 2) / image.height)
    return " ".join(repr(n) for n in (*centre, width / image.width, height / image.height))


def _raw_tokens(annotation: Annotation) -> list[str]:
    extra = {} if annotation.extra is UNSET else annotation.extra
    try:
        return msgspec.json.decode(extra.get(RAW_YOLO, b'""'), type=str).split()
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ):  # another source may have a key of that name
        return []


def _count_losses(dataset: Dataset, counts: Counter[str]) -> None:
    for annotation in dataset.annotations:
        extra = () if annotation.extra is UNSET else annotation.extra
        counts["yolo-crowd"] += annotation.iscrowd != 0
        counts["yolo-polygon"] += annotation.segmentation is not UNSET
        counts["yolo-area"] += annotation.area != annotation.bbox[2] * annotation.bbox[3]
        counts["yolo-extra"] += any(key != RAW_YOLO for key in extra)
    for image in dataset.images:
        links = (image.license, image.coco_url, image.flickr_url, image.date_captured)
        counts["yolo-licence"] += any(value is not UNSET for value in links)
        counts["yolo-extra"] += bool(image.extra)
        counts["yolo-images-folder"] += len(_label_paths(image.file_name)) > 1
    for category in dataset.categories:
        counts["yolo-category"] += category.supercategory is not UNSET or bool(category.extra)
