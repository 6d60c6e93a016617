"""Pascal VOC: an XML file per image.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. `SourceConfig.annotations`
names the folder `Annotations`; the lists of its parts are in `ImageSets/Main` beside it.

Coordinates: a box has corners (xmin, ymin) and (xmax, ymax). With `source.offset` o, it is read as
x = xmin - o and width = xmax - xmin + o, and likewise down. So offset 1, the default, is VOC's own
rule: pixels counted from 1, both corners in the box. Offset 0 is what many newer tools mean, such
as labelImg: edges measured from 0, width = xmax - xmin. (A tool that counts pixels from 0 and has
the last one in the box gives boxes one pixel too small with offset 0.) Fractions are allowed.

Extra fields of an annotation: `raw_bbox` [xmin, ymin, xmax, ymax] as in the file, and every other
child of <object> by its tag (pose, truncated, difficult, occluded, part, ...) as `voc_xml` makes
JSON of it. `difficult` is not `iscrowd`: VOC's evaluation only leaves such an object out. Images
likewise have the other children of <annotation>. A tag that is the name of a COCO field gets the
prefix voc_, as `voc_source` does; what <size> and <bndbox> hold beside the sides and corners (the
depth) is in `voc_size` and `voc_bndbox`.

Categories are numbered by sorted name, images by the sorted paths of their XML files.

What `voc_write` adds: <iscrowd> in <object>, and <relaydet>, which holds as JSON what VOC has no
element for. Reading understands both, so nothing is lost on the way to VOC and back.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw

from relaydet.config import SourceConfig
from relaydet.data.dataset import (
    EXTRA_KEY,
    Annotation,
    Box,
    Category,
    Dataset,
    Id,
    Image,
    gc_paused,
)
from relaydet.data.findings import Finding
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import path_of
from relaydet.data.formats.text import is_unicode, number
from relaydet.data.formats.voc_files import ALL, listed_files, xml_files
from relaydet.data.formats.voc_write import (
    CORNERS,
    OWN_ELEMENT,
    PREFIX,
    RAW_BBOX,
    RESERVED,
    SIDES,
    Extra,
    ExtraOfImage,
    ExtraOfObject,
    bbox_of,
    write,
)
from relaydet.data.formats.voc_xml import children_as_json, parse
from relaydet.errors import RelayError

__all__ = ["read", "write"]

MAX_SIDE = 2**31 - 1

_FLAG = re.compile(r"-?[0-9]{1,9}")
Own = TypeVar("Own", ExtraOfImage, ExtraOfObject)


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read the folder `source.annotations`; any split but "all" is a list in ImageSets/Main.

    Returns:
        The dataset, images numbered from 1, and what reading noticed. An XML file that is broken is
        left out with its image; an object without a name or four numbers is left out.

    Raises:
        RelayError: there is no folder or no such list, or no file in it can be read.
    """
    folder = path_of(source)
    noticed = Noticed(source.name)
    files = xml_files(folder, source)
    if source.split != ALL:
        files = listed_files(folder, source, files, noticed)
    dataset, names = Dataset([], [], []), []
    with gc_paused():
        for relative, path in files.items():
            names += _read_file(relative, path, source.offset, dataset, noticed)
    findings = noticed.findings()
    if files and not dataset.images:
        raise RelayError(
            f"{folder}: none of the {len(files)} XML files of source {source.name} can be read, for"
            f" example {findings[0].message}; give the folder Annotations of a Pascal VOC dataset."
        )
    ids: dict[str, Id] = {name: place for place, name in enumerate(sorted(set(names)), start=1)}
    dataset.categories.extend(Category(place, name) for name, place in ids.items())
    for annotation, name in zip(dataset.annotations, names, strict=True):
        annotation.category_id = ids[name]
    return dataset, findings


def _read_file(
    relative: str, path: Path, offset: float, dataset: Dataset, noticed: Noticed
) -> list[str]:
    """Append the image and the annotations of a file; returns the annotations' category names."""
    objects: list[tuple[Annotation, str] | str] = []
    image_id = len(dataset.images) + 1
    try:
        if not is_unicode(relative):
            raise RelayError("its name is not Unicode text")
        data = path.read_bytes()
        root = parse(data, lambda element: objects.append(_read_object(element, offset, image_id)))
        if root.tag != "annotation":
            raise RelayError(f"its root is <{root.tag[:100]}>, not <annotation>")
        image = _read_image(root, relative, image_id, noticed)
    except (RelayError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"{relative!a}.xml: {reason}"
        noticed.add("annotation-unreadable", "warning", message, "left out, with its image")
        return []
    dataset.images.append(image)
    names = []
    for place, found in enumerate(objects):
        if isinstance(found, str):
            message = f"object {place} (counted from 0) of {relative}.xml {found}"
            noticed.add("object-unusable", "warning", message, "dropped", image.file_name)
            continue
        found[0].id = len(dataset.annotations) + 1
        dataset.annotations.append(found[0])
        names.append(found[1])
    return names


def _read_image(root: ET.Element, relative: str, image_id: int, noticed: Noticed) -> Image:
    first, rest = _take_first(root, ("filename", "size", OWN_ELEMENT))
    sides, of_size = _take_first(first.get("size", ()), SIDES)
    width, height = (_side(sides.get(side)) for side in SIDES)
    for side, value in zip(SIDES, (width, height), strict=True):
        if side in sides and value == 0:
            of_size.append(sides[side])  # kept as it is: it is not a number of pixels
    own = _decode_own(first.get(OWN_ELEMENT), ExtraOfImage, rest)
    name = _text(first.get("filename")).strip()
    if not name and own.file_name is UNSET:
        name = f"{relative.rpartition('/')[2]}.jpg"
        message = f"{relative}.xml has no file name"
        noticed.add("file-name-missing", "info", message, "taken from the XML file's, .jpg", name)
    parent = relative.rpartition("/")[0]
    if parent and not name.startswith(f"{parent}/"):
        name = f"{parent}/{name}"
    name = name if own.file_name is UNSET else own.file_name
    if not (width and height):
        message = f"{relative}.xml has no usable width and height"
        noticed.add("size-missing", "info", message, "to be read from the image files", name)
    extra = {f"@{key}": _raw(value) for key, value in root.attrib.items()}
    extra |= _extra(rest, ("voc_size", of_size), own.extra, Image.__struct_fields__)
    return Image(
        image_id,
        name,
        width,
        height,
        coco_url=own.coco_url,
        flickr_url=own.flickr_url,
        date_captured=own.date_captured,
        source=own.source,
        source_id=own.source_id,
        extra=extra or UNSET,
    )


def _read_object(element: ET.Element, offset: float, image_id: int) -> tuple[Annotation, str] | str:
    """The annotation and its category's name, or what is wrong with the object."""
    first, rest = _take_first(element, ("name", "bndbox", "iscrowd", OWN_ELEMENT))
    corners, of_box = _take_first(first.get("bndbox", ()), CORNERS)
    own = _decode_own(first.get(OWN_ELEMENT), ExtraOfObject, rest)
    name = _text(first.get("name")).strip() if own.name is UNSET else own.name
    if not name and own.name is UNSET:
        return "has no name"
    raw = [number(_text(corners.get(corner))) for corner in CORNERS]
    numbers = [value for value in raw if value is not None]
    if len(numbers) < len(CORNERS):
        return "has no box of four numbers"
    stored = [_as_stored(_text(corners[corner])) for corner in CORNERS]
    bbox = bbox_of(numbers, offset)
    crowd = _text(first.get("iscrowd")).strip()
    if crowd and not _FLAG.fullmatch(crowd):
        rest.append(first["iscrowd"])
        crowd = ""
    area = _area(bbox) if own.area is UNSET else own.area
    extra = {f"@{key}": _raw(value) for key, value in element.attrib.items()}
    extra[RAW_BBOX] = _raw(stored)
    extra |= _extra(rest, ("voc_bndbox", of_box), own.extra, Annotation.__struct_fields__)
    if area is None:
        return "has a box too large to be one"
    crowd_flag = int(crowd or 0)
    return Annotation(0, image_id, 0, bbox, area, crowd_flag, own.segmentation, extra), name


def _take_first(
    elements: Iterable[ET.Element], tags: tuple[str, ...]
) -> tuple[dict[str, ET.Element], list[ET.Element]]:
    """The first element with each of some tags, and all the others."""
    first: dict[str, ET.Element] = {}
    rest = []
    for element in elements:
        if element.tag not in tags or first.setdefault(element.tag, element) is not element:
            rest.append(element)
    return first, rest


def _decode_own(element: ET.Element | None, kind: type[Own], rest: list[ET.Element]) -> Own:
    """What a <relaydet> element says; one that says nothing goes to the other elements."""
    if element is None:
        return kind()
    try:
        return msgspec.json.decode(_text(element).encode(), type=kind)
    except (msgspec.DecodeError, RecursionError):
        rest.append(element)
        return kind()


def _extra(
    rest: list[ET.Element],
    left_over: tuple[str, list[ET.Element]],
    own: Extra,
    fields: tuple[str, ...],
) -> Extra:
    """Extra fields: of elements, of what is left of an element, and those in <relaydet>.

    None gets the name of one of the record's own `fields`.
    """
    extra = {
        (f"{PREFIX}{tag}" if tag in RESERVED else tag): _raw(value)
        for tag, value in children_as_json(rest).items()
    }
    key, left = left_over
    if left:
        extra[key] = _raw(children_as_json(left))
    return extra | {key: raw for key, raw in own.items() if key not in fields and key != EXTRA_KEY}


def _raw(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def _text(element: ET.Element | None) -> str:
    return "" if element is None else element.text or ""


def _side(element: ET.Element | None) -> int:
    """Width or height in pixels; 0 where there is none."""
    value = number(_text(element)) or 0.0
    return int(value) if value.is_integer() and 0 < value <= MAX_SIDE else 0


def _as_stored(text: str) -> float:
    """A number that is written as text was, as far as possible."""
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else float(text)


def _area(bbox: Box) -> float | None:
    """Pixels, or None where that is no finite number."""
    area = bbox[2] * bbox[3]
    return area if abs(area) < float("inf") else None
