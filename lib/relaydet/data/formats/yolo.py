"""YOLO: a text file per image, with a line per object.

Format: https://docs.ultralytics.com/datasets/detect/. `SourceConfig.annotations` names a data.yaml,
or a folder of label files; `yolo_files` says how images and labels are found, and where the names
of the classes come from.

A line is "class cx cy w h": the class counted from 0, the centre and size of the box as fractions
of the image's sides. A line with three points or more, "class x1 y1 x2 y2 x3 y3 ...", is a polygon:
it becomes a `segmentation` in pixels, with the box around it and the area that it encloses. A sixth
number after a box is taken for a confidence, which is no part of an annotation: the box is kept.

The label files hold no image sizes, which pixels are computed from, so every image is opened. A
category's id is its class + 1. Extra fields: annotations have `raw_yolo`, the numbers of the line
behind the class as they were written; images have `split` where a data.yaml names it.

Ultralytics turns an image as its EXIF orientation says (OpenCV does, on reading), so the labels of
such an image may have been drawn on the turned one; nothing in the file says so. They are read on
the pixels as stored, as everywhere here, and the image is named.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from msgspec import Raw

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Box, Category, Dataset, Image, gc_paused, set_extra
from relaydet.data.findings import Finding
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.text import number
from relaydet.data.formats.yolo_files import Labelled, find_files
from relaydet.data.formats.yolo_write import RAW_YOLO, bbox_of, write
from relaydet.data.images import UPRIGHT, Header, Images, open_images, read_header
from relaydet.errors import RelayError

__all__ = ["read", "write"]

THREADS = 8
BOX_NUMBERS = 4
POLYGON_NUMBERS = 6
MAX_CLASS = 10**6
# A box in memory takes dozens of times its line; a file of more is taken for broken.
MAX_LABEL_BYTES = 1 << 18
MAX_NUMBERS = 10_000  # of a line
MAX_FRACTION = 1e6  # beyond this nothing is a place in an image
ROUNDING = 1e-3  # exporters with few digits write 1.0005
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\r|\n|$)")


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read a data.yaml or a folder of label files.

    Returns:
        The dataset, images numbered from 1, and what reading noticed. An image that does not open
        has width and height 0 and no annotations.

    Raises:
        RelayError: there are no such files, or no such split in them.
    """
    noticed = Noticed(source.name)
    images = open_images(source.images)
    files, names = find_files(source, images, noticed)
    images.fetch([file.name for file in files])
    dataset = Dataset([], [], [])
    with gc_paused(), ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda file: _look(images, file.name), files)
        for file, look in zip(files, looks, strict=True):
            _read_image(file, look, dataset, noticed)
    _add_categories(dataset, names, noticed)
    return dataset, noticed.findings()


def _add_categories(dataset: Dataset, names: dict[int, str], noticed: Noticed) -> None:
    """All classes that have a name, and those that labels are of."""
    used = {int(annotation.category_id) - 1 for annotation in dataset.annotations}
    unnamed = sorted(used - names.keys()) if names else []
    if unnamed:
        message = f"{len(unnamed)} classes have no name, such as {unnamed[0]}"
        noticed.add("class-unnamed", "warning", message, 'named "class" and their number')
    for place in sorted(used | names.keys()):
        dataset.categories.append(Category(place + 1, names.get(place, f"class {place}")))


def _look(images: Images, name: str) -> Header | RelayError:
    try:
        return read_header(images, name)
    except RelayError as error:
        return error


def _read_image(
    file: Labelled, look: Header | RelayError, dataset: Dataset, noticed: Noticed
) -> None:
    """Append an image and its annotations."""
    image = Image(len(dataset.images) + 1, file.name, 0, 0)
    if file.split:
        set_extra(image, split=file.split)
    data = _label_bytes(file, noticed)
    if data is None:  # without its labels it would become an image of background
        return
    dataset.images.append(image)
    if isinstance(look, RelayError):
        if data.strip():
            message = f"the labels of {file.name} need its size, but {look}"
            noticed.add("image-unreadable", "warning", message, "labels dropped", file.name)
        return
    image.width, image.height = look.width, look.height
    if look.orientation != UPRIGHT and data.strip():
        message = f"{file.name} has the EXIF orientation {look.orientation}; if its labels were"
        message += " drawn on the turned image, they are wrong"
        noticed.add("label-turned", "warning", message, "read on the pixels as stored", file.name)
    for place, line in _iter_lines(data):
        annotation, problem = _read_line(line, image)
        if annotation is not None:
            annotation.id = len(dataset.annotations) + 1
            dataset.annotations.append(annotation)
        if problem:
            code, what = problem
            action = "dropped" if annotation is None else "kept"
            message = f"line {place} of the labels of {file.name} {what}"
            noticed.add(code, "warning", message, action, file.name)


def _label_bytes(file: Labelled, noticed: Noticed) -> bytes | None:
    """What is in the label file of an image; None where that cannot be known."""
    if file.labels is None:
        return b""
    try:
        with file.labels.open("rb") as labels:
            data = labels.read(MAX_LABEL_BYTES + 1)
        reason = f"more than {MAX_LABEL_BYTES} bytes" if len(data) > MAX_LABEL_BYTES else None
    except OSError as error:
        reason = error.strerror
    if reason is None:
        return data.removeprefix(codecs.BOM_UTF8)
    message = f"the labels of {file.name} cannot be read ({reason})"
    noticed.add("labels-unreadable", "warning", message, "left out, with its image", file.name)
    return None


def _iter_lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1; one at a time, for most may be broken."""
    for place, match in enumerate(_LINE.finditer(data), start=1):
        if line := match[1].decode("ascii", "replace").strip():
            yield place, line


def _read_line(line: str, image: Image) -> tuple[Annotation | None, tuple[str, str] | None]:
    """The annotation of a line, if it is one, and what is odd about it."""
    tokens = line.split(None, MAX_NUMBERS + 1)
    if len(tokens) > MAX_NUMBERS + 1:
        return None, ("label-unusable", f"has more than {MAX_NUMBERS} numbers")
    category = number(tokens[0])
    if category is None or not (category.is_integer() and 0 <= category < MAX_CLASS):
        return None, ("label-unusable", f"begins with {tokens[0][:40]!r}, not with a class")
    numbers = [number(token) for token in tokens[1:]]
    values = [n for n in numbers if n is not None and abs(n) <= MAX_FRACTION]
    is_polygon = len(values) >= POLYGON_NUMBERS and len(values) % 2 == 0
    if len(values) < len(tokens) - 1 or not (len(values) in (4, 5) or is_polygon):
        what = f"has {len(values)} usable numbers of {len(tokens) - 1} behind the class"
        return None, ("label-unusable", what)
    problem = None
    if len(values) == BOX_NUMBERS + 1:
        problem = ("label-confidence", "has a sixth number, taken for a confidence")
    elif max(values) > 1 + ROUNDING:
        problem = ("label-not-normalised", f"has {max(values):g}, but fractions of a side end at 1")
    annotation = _polygon(values, image) if is_polygon else _box(values[:BOX_NUMBERS], image)
    annotation.category_id = int(category) + 1
    annotation.extra = {RAW_YOLO: Raw(msgspec.json.encode(" ".join(tokens[1:])))}
    return annotation, problem


def _box(fractions: list[float], image: Image) -> Annotation:
    bbox = bbox_of(fractions, image.width, image.height)
    return Annotation(0, image.id, 0, bbox, bbox[2] * bbox[3])


def _polygon(fractions: list[float], image: Image) -> Annotation:
    sides = (image.width, image.height)
    points = [value * sides[place % 2] for place, value in enumerate(fractions)]
    annotation = Annotation(0, image.id, 0, _around(points), _enclosed(points))
    annotation.segmentation = Raw(msgspec.json.encode([points]))
    return annotation


def _around(points: Sequence[float]) -> Box:
    """The smallest box around points x1, y1, x2, y2, ..."""
    x, y = min(points[0::2]), min(points[1::2])
    return x, y, max(points[0::2]) - x, max(points[1::2]) - y


def _enclosed(points: Sequence[float]) -> float:
    """Area of a polygon, by the shoelace formula."""
    xs, ys = points[0::2], points[1::2]
    following = zip([*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    terms = (x * y2 - x2 * y for x, y, (x2, y2) in zip(xs, ys, following, strict=True))
    return abs(math.fsum(terms)) / 2
