"""CrowdHuman's .odgt files: a JSON object per line, one line per image.

Source of the format: Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd",
https://arxiv.org/abs/1805.00123, and https://www.crowdhuman.org. A line is

    {"ID": "273271,1a0d6000b9e1f5b7", "gtboxes": [
        {"tag": "person", "fbox": [72, 202, 163, 503], "vbox": [72, 202, 163, 398],
         "hbox": [171, 208, 62, 83], "extra": {"box_id": 0, "occ": 0},
         "head_attr": {"ignore": 0, "occ": 0, "unsure": 0}}, ...]}

and its image is "<ID>.jpg". Boxes are [x, y, width, height] in pixels counted from 0, so
`source.offset` has no meaning here.

`fbox` is the full body, seen or not, and becomes the box of the annotation; `area` is its width
times its height. It reaches out of the image where the person does: `checks.boxes` clamps it later,
once the image's size is known, and keeps it in `raw_bbox`. A region tagged "mask", and a box with
`extra.ignore` 1, is nobody in particular and becomes `iscrowd` 1: pycocotools ignores a region only
then. `head_attr.ignore` is about the head alone.

Extra fields: all else that stands in a box (`vbox`, `hbox`, `extra`, `head_attr`, and the `tag` if
it is mask) or beside the boxes, byte for byte; a key that COCO has itself is called original_<key>.
The files hold no image sizes: they are read from the images later on (`checks.files`).
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, UnsetType

from relaydet.addresses import shown
from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Box, Category, Dataset, Image, gc_paused
from relaydet.data.findings import Finding
from relaydet.data.formats.noticed import Noticed
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError

PERSON = 1
TAGS = {b'"person"': 0, b'"mask"': 1}  # and whether that is a crowd
# Room for a thousand boxes. A line is taken apart whole, which takes up to 25 times its size.
MAX_LINE_BYTES = 1 << 18

Fields = dict[str, Raw]

_FIELDS = msgspec.json.Decoder(Fields)
_ROWS = msgspec.json.Decoder(list[Fields])
_TEXT = msgspec.json.Decoder(str)
_BOX = msgspec.json.Decoder(Box)
_OF_IMAGES = frozenset(Image.__struct_encode_fields__)
_OF_ANNOTATIONS = frozenset(Annotation.__struct_encode_fields__)
# A line that is not blank; blank ones, of which there may be millions, are passed by.
_LINE = re.compile(rb"\S[^\n]*")


class _Ignore(msgspec.Struct):
    ignore: Raw = Raw(b"0")


_IGNORE = msgspec.json.Decoder(_Ignore)


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read the .odgt file `source.annotations`.

    Returns:
        The dataset, image ids as in the file, annotations numbered from 1, and what reading
        noticed: lines and boxes that cannot be used are dropped. Images have width and height 0,
        until `checks.files.check_images` reads them from the image files.

    Raises:
        RelayError: the file cannot be read, no line of it is an image, or a split is asked for.
    """
    if source.split != "all":
        raise RelayError(
            f"source {source.name}: an .odgt file has no parts, so its split is all, not"
            f" {source.split!r}; give the file of that part instead."
        )
    return decode(read_bytes(source.annotations), source.name, shown(source.annotations))


def decode(data: bytes, source: str, where: str) -> tuple[Dataset, list[Finding]]:
    """Read the bytes of an .odgt file.

    Args:
        data: the file.
        source: name of the source, for the findings.
        where: what to call the file in an error message.

    Raises:
        RelayError: no line is an image.
    """
    dataset, noticed = Dataset([], [], [Category(PERSON, "person")]), Noticed(source)
    with gc_paused():
        for number, line in _iter_lines(data):
            try:
                _read_line(line, dataset, noticed)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _LineError) as error:
                message = f"line {number} of {where} cannot be used: {error}"
                noticed.add("line-unusable", "warning", message, "dropped")
    findings = noticed.findings()
    if not dataset.images:
        first = findings[0].message if findings else "it is empty"
        raise RelayError(
            f"{where}: holds no image of CrowdHuman ({first}); give an .odgt file, with a JSON"
            " object per line."
        )
    return dataset, findings


class _LineError(Exception):
    """JSON that is no image of CrowdHuman."""


def _iter_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1; one at a time, for there may be millions."""
    last = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    number = 1
    for match in _LINE.finditer(data, last):
        number += data.count(b"\n", last, match.start())
        last = match.start()
        yield number, match[0]


def _read_line(line: bytes, dataset: Dataset, noticed: Noticed) -> None:
    """Append the image of a line, and its boxes."""
    if len(line) > MAX_LINE_BYTES:
        raise _LineError(f"it has {len(line)} bytes, more than an image needs")
    if not line.isascii():
        line.decode()  # what is kept as bytes is not looked at again
    fields = _FIELDS.decode(line)
    if "ID" not in fields or "gtboxes" not in fields:
        raise _LineError(f"it has {', '.join(fields)[:200] or 'no keys'}, not ID and gtboxes")
    name, rows = _TEXT.decode(fields.pop("ID")), _ROWS.decode(fields.pop("gtboxes"))
    name.encode()  # half a character, as JSON can escape it, is no file name
    image = Image(name, f"{name}.jpg", 0, 0, extra=_extra(fields, _OF_IMAGES))
    dataset.images.append(image)
    annotations = dataset.annotations
    for place, row in enumerate(rows):
        found = _read_box(row, len(annotations) + 1, image.id)
        if isinstance(found, Annotation):
            annotations.append(found)
        else:
            message = f"box {place} (counted from 0) of {image.file_name} {found}"
            noticed.add("box-unusable", "warning", message, "dropped", image.file_name)


def _read_box(row: Fields, number: int, image: int | str) -> Annotation | str:
    """The annotation of a box, or what is wrong with it."""
    crowd = TAGS.get(bytes(row.get("tag", b"")))
    if crowd is None:
        return "is tagged neither person nor mask"
    if "fbox" not in row:
        return "has no fbox"
    try:
        box = _BOX.decode(row.pop("fbox"))
    except msgspec.DecodeError as error:
        return f"has no four numbers in fbox: {error}"
    area = box[2] * box[3]
    if not math.isfinite(area):
        return "is too large"
    if not crowd and "extra" in row and _is_ignored(row["extra"]):
        crowd = 1
    if bytes(row["tag"]) == b'"person"':
        del row["tag"]  # the category says so
    extra = _extra(row, _OF_ANNOTATIONS)
    return Annotation(number, image, PERSON, box, area, crowd, UNSET, extra)


def _is_ignored(extra: Raw) -> bool:
    """Whether `extra` has ignore 1."""
    content = bytes(extra)
    # Few boxes have the key, so most are spared being decoded; a backslash may hide it.
    if b"ignore" not in content and b"\\" not in content:
        return False
    try:
        return bytes(_IGNORE.decode(content).ignore) in (b"1", b"true")
    except msgspec.ValidationError:
        return False  # no object


def _extra(fields: Fields, taken: frozenset[str]) -> Fields | UnsetType:
    """Fields under names that are not taken."""
    if not fields:
        return UNSET
    if taken.isdisjoint(fields):
        return fields
    extra: Fields = {}
    for key, raw in fields.items():
        while key in taken or key in extra:
            key = f"original_{key}"
        extra[key] = raw
    return extra
