"""Pascal VOC, written: an XML file per image, and a list of them. See `voc` for the format.

    Annotations/<source>/<path>.xml     <path> without the image's extension, unless that is taken
    ImageSets/Main/all.txt              those names, one a line
    labelmap.txt                        the categories, "name:colour:parts:actions", for CVAT and
                                        datumaro, which else take VOC's own twenty

Corners count pixels from 1 and are both in the box (offset 1), with as many digits as reading needs
to give back the box: whole numbers exactly, fractions but for the rounding of float64 (some 1e-13
of a pixel). <difficult>, <truncated> and <pose> are there for every object, because other
readers demand them; a crowd is difficult, since VOC's evaluation then leaves it out as COCO's does.
What VOC has no element for is in <relaydet>, as JSON; other readers pass over it. Only `info`,
licences and the fields of categories stay behind: a dataset's annotations.json has them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, Raw, UnsetType

from relaydet.data.dataset import (
    EXTRA_KEY,
    Annotation,
    Box,
    Dataset,
    Id,
    Image,
    decode_corners,
    decode_raw,
)
from relaydet.data.findings import Finding
from relaydet.data.formats.text import check_listable, without_suffix
from relaydet.data.formats.voc_xml import (
    as_elements,
    encode,
    is_attribute,
    is_safe,
    json_text,
)

OWN_ELEMENT = "relaydet"
PREFIX = "voc_"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("width", "height")
RAW_BBOX = "raw_bbox"
# Tags that reading prefixes: as keys they would stand for a field of COCO, or for our own.
RESERVED = {*Annotation.__struct_fields__, *Image.__struct_fields__, EXTRA_KEY, RAW_BBOX}
STANDARD_OFFSET = 1.0
MAX_WHOLE = 1e15  # from here on, not every whole float is written as its digits
# Written for each object that does not say otherwise; of a crowd, difficult is 1.
_DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}
# Elements with a meaning of their own, which an extra field of that name must not take.
_TAKEN = {"filename", "size", "object", "name", "bndbox", "iscrowd", OWN_ELEMENT}
_NOTES = {
    "voc-crowd": (
        "warning",
        "crowds have <iscrowd> and <difficult> 1; other readers may take them for one object",
        "kept",
    ),
    "voc-own-element": (
        "info",
        "objects have a segmentation, an area or keys that only relaydet reads, in <relaydet>",
        "kept",
    ),
    "voc-size-unknown": ("warning", "images have no known width and height", "kept"),
    "voc-licence": ("warning", "images have a licence, which VOC has no place for", "left out"),
    "voc-category": ("warning", "categories have fields besides their name", "left out"),
    "voc-labelmap": (
        "warning",
        "categories have a name that labelmap.txt cannot hold (a colon, # in front, spaces around)",
        "left out of it",
    ),
    "voc-category-unused": ("warning", "categories have no object", "left out"),
}


Extra = dict[str, Raw]


class ExtraOfImage(msgspec.Struct, omit_defaults=True):
    """What <relaydet> holds in <annotation>: the fields of `Image` that VOC does not have."""

    file_name: str | UnsetType = UNSET
    coco_url: Raw | UnsetType = UNSET
    flickr_url: Raw | UnsetType = UNSET
    date_captured: Raw | UnsetType = UNSET
    source: str | UnsetType = UNSET
    source_id: Id | UnsetType = UNSET
    extra: Extra = {}


class ExtraOfObject(msgspec.Struct, omit_defaults=True):
    """What <relaydet> holds in <object>: the fields of `Annotation` that VOC does not have."""

    name: str | UnsetType = UNSET
    area: float | UnsetType = UNSET
    segmentation: Raw | UnsetType = UNSET
    extra: Extra = {}


def bbox_of(corners: Sequence[float], offset: float) -> Box:
    """The box [x, y, width, height] in pixels of xmin, ymin, xmax and ymax."""
    x, y = corners[0] - offset, corners[1] - offset
    return x, y, corners[2] - x, corners[3] - y


def write(dataset: Dataset, put: Callable[[str, bytes], None]) -> list[Finding]:
    """Write a merged dataset; its boxes and areas are finite.

    Args:
        dataset: file names are "<source>/<path in that source>".
        put: stores the bytes of a file under a relative name.

    Returns:
        What other readers of VOC will not see, and what is left out; one finding of each kind.

    Raises:
        RelayError: a file name cannot be written into XML or a list, or leads out of its folder.
    """
    paths = _paths(dataset)
    by_image = dataset.annotations_by_image()
    names = {category.id: category.name for category in dataset.categories}
    counts: Counter[str] = Counter()
    for image, path in zip(dataset.images, paths, strict=True):
        root = _image_element(image, path, counts)
        for annotation in by_image.get(image.id, ()):
            root.append(_object_element(annotation, names[annotation.category_id], counts))
        put(f"Annotations/{path}.xml", encode(root))
    put("ImageSets/Main/all.txt", "".join(f"{path}\n" for path in paths).encode())
    put("labelmap.txt", _labelmap(list(names.values()), counts))
    used = {annotation.category_id for annotation in dataset.annotations}
    for category in dataset.categories:
        counts["voc-category"] += category.supercategory is not UNSET or bool(category.extra)
        counts["voc-category-unused"] += category.id not in used
    return [
        Finding(code, severity, "", f"{counts[code]} {what}", action)
        for code, (severity, what, action) in _NOTES.items()
        if counts[code]
    ]


def _labelmap(names: Sequence[str], counts: Counter[str]) -> bytes:
    """The names in the form that datumaro documents; colours, parts and actions stay empty."""
    fitting = [
        name
        for name in dict.fromkeys(names)
        if name == name.strip() and not name.startswith("#") and ":" not in name
        if len(name.splitlines()) == 1 and is_safe(name)
    ]
    counts["voc-labelmap"] += len(names) - len(fitting)
    lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in fitting)]
    return "".join(f"{line}\n" for line in lines).encode()


def _paths(dataset: Dataset) -> list[str]:
    """Path of each image's XML file, without .xml."""
    for image in dataset.images:
        check_listable(image.file_name, "voc")
    taken: set[str] = set()
    paths = []
    for image in dataset.images:
        path = without_suffix(image.file_name)
        if path in taken:  # a.jpg and a.png
            path = "/".join(part for part in image.file_name.split("/") if part not in ("", "."))
        while path in taken:
            path += "_"
        taken.add(path)
        paths.append(path)
    return paths


def _image_element(image: Image, path: str, counts: Counter[str]) -> ET.Element:
    root = ET.Element("annotation")
    folder, name = path.rpartition("/")[0], image.file_name.rpartition("/")[2]
    restored = f"{folder}/{name}" if folder else name
    exact = restored == image.file_name and name == name.strip() and is_safe(name)
    extra = {} if image.extra is UNSET else dict(image.extra)
    _add(root, "filename", name)
    root.append(_nested("size", {side: str(getattr(image, side)) for side in SIDES}, extra))
    _move_extra(extra, root)
    own = ExtraOfImage(
        UNSET if exact else image.file_name,
        image.coco_url,
        image.flickr_url,
        image.date_captured,
        image.source,
        image.source_id,
        extra,
    )
    _add_own(own, root)
    counts["voc-size-unknown"] += not (image.width and image.height)
    counts["voc-licence"] += image.license is not UNSET
    return root


def _object_element(annotation: Annotation, name: str, counts: Counter[str]) -> ET.Element:
    element = ET.Element("object")
    exact = bool(name) and name == name.strip() and is_safe(name)
    _add(element, "name", name if exact else "".join(filter(is_safe, name)).strip())
    extra = {} if annotation.extra is UNSET else dict(annotation.extra)
    defaults = {**_DEFAULTS, **({"difficult": "1"} if annotation.iscrowd else {})}
    for tag, text in defaults.items():
        if tag not in extra:
            _add(element, tag, text)
    corners = dict(zip(CORNERS, _corners(annotation, extra), strict=True))
    element.append(_nested("bndbox", corners, extra))
    if annotation.iscrowd:
        _add(element, "iscrowd", str(annotation.iscrowd))
    _move_extra(extra, element)
    usual_area = annotation.area == annotation.bbox[2] * annotation.bbox[3]
    own = ExtraOfObject(
        UNSET if exact else name,
        UNSET if usual_area else annotation.area,
        annotation.segmentation,
        extra,
    )
    counts["voc-own-element"] += _add_own(own, element)
    counts["voc-crowd"] += annotation.iscrowd != 0
    return element


def _corners(annotation: Annotation, extra: Extra) -> list[str]:
    """Corners as text; as they were in a VOC file where they still are that box."""
    x, y, width, height = annotation.bbox
    raw = decode_corners(extra.get(RAW_BBOX))
    if raw is not None and bbox_of(raw, STANDARD_OFFSET) == annotation.bbox:
        del extra[RAW_BBOX]
        return [repr(value) for value in raw]
    corners = (x + STANDARD_OFFSET, y + STANDARD_OFFSET, x + width, y + height)
    return [repr(int(value) if _is_whole(value) else value) for value in corners]


def _nested(tag: str, children: dict[str, str], extra: Extra) -> ET.Element:
    """An element with children, and with those kept in an extra field, which is taken out."""
    element = ET.Element(tag)
    for child, text in children.items():
        _add(element, child, text)
    kept = decode_raw(extra.get(PREFIX + tag))
    if isinstance(kept, dict) and kept and not kept.keys() & children.keys():
        others = [as_elements(child, value) for child, value in kept.items()]
        if None not in others:
            element.extend(one for elements in others if elements for one in elements)
            del extra[PREFIX + tag]
    return element


def _move_extra(extra: Extra, parent: ET.Element) -> None:
    """Turn extra fields into elements and attributes, as far as reading will restore them."""
    for key in list(extra):
        value = decode_raw(extra[key])
        if key.startswith("@") and isinstance(value, str) and is_attribute(key[1:], value):
            parent.set(key[1:], value)
            del extra[key]
            continue
        plain = key.removeprefix(PREFIX)
        tag = plain if plain in RESERVED else key
        elements = None if key in RESERVED or tag in _TAKEN else as_elements(tag, value)
        if elements is not None:
            parent.extend(elements)
            del extra[key]


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text


def _add_own(own: ExtraOfImage | ExtraOfObject, parent: ET.Element) -> bool:
    """Add <relaydet> unless there is nothing for it to hold."""
    text = json_text(own)
    if text == "{}":
        return False
    _add(parent, OWN_ELEMENT, text)
    return True


def _is_whole(value: float) -> bool:
    return value.is_integer() and abs(value) < MAX_WHOLE
