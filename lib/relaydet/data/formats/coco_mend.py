"""Values of a COCO record that other tools write in other ways, put into the types of ours."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from relaydet.data.dataset import Annotation, Box, Category, Id, Image, Side

Fields = dict[str, Raw]

# Fields whose whole numbers some tools write as 640.0, and fields that may be of any type in a file
# although ours have one: a value of another type is then an unknown key like any other.
_WHOLE: dict[type, tuple[str, ...]] = {
    Image: ("id", "width", "height"),
    Annotation: ("id", "image_id", "category_id", "iscrowd"),
    Category: ("id",),
}
_OPTIONAL: dict[type, dict[str, Any]] = {
    Image: {"source": str, "source_id": Id},
    Annotation: {},
    Category: {"supercategory": str},
}
MENDED = {
    "size-missing": ("images have no usable width and height", "to be read from the image files"),
    "area-missing": ("annotations have no usable area", "set to box width * height"),
    "id-missing": ("annotations have no id", "named after their place in the file"),
}


def mend(kind: type, known: Fields, index: int) -> tuple[Fields, list[str]]:
    """Replace, in place, values that need not stop a record from being one.

    Args:
        kind: type of the record.
        known: its fields by key.
        index: its place in the file, to name it after.

    Returns:
        Values taken out because another type than ours has the right to stand there, and codes (of
        `MENDED`) of what was made up.

    Raises:
        msgspec.ValidationError: there is no area, and no box to make one from.
    """
    extra, codes = {}, []
    for key, expected in _OPTIONAL[kind].items():
        if key in known and _convert_or(known[key], expected, None) is None:
            extra[key] = known.pop(key)
    for key in _WHOLE[kind]:
        if key in known:
            known[key] = _whole(known[key])
    if kind is Image:
        bad = [
            key for key in ("width", "height") if _convert_or(known.get(key), Side, None) is None
        ]
        extra.update({f"raw_{key}": known[key] for key in bad if key in known})
        known.update({key: Raw(b"0") for key in bad})
        codes += ["size-missing"] if bad else []
    if kind is Annotation:
        flag = known.get("iscrowd")
        if flag is not None:
            flags = {b"null": b"0", b"false": b"0", b"true": b"1"}
            known["iscrowd"] = Raw(flags.get(bytes(flag), bytes(flag)))
        if "bbox" in known and _convert_or(known.get("area"), float, None) is None:
            if "area" in known:
                extra["raw_area"] = known["area"]
            _, _, width, height = msgspec.json.decode(known["bbox"], type=Box)
            known["area"] = Raw(msgspec.json.encode(width * height))
            codes.append("area-missing")
        if "id" not in known:
            known["id"] = Raw(msgspec.json.encode(f"number {index}"))
            codes.append("id-missing")
    return extra, codes


def _whole(raw: Raw) -> Raw:
    """A whole number written as 640.0 or 6.4e2 as 640; anything else as it is."""
    number = _convert_or(raw, float, None)
    if number is None or not number.is_integer() or bytes(raw).lstrip(b"-").isdigit():
        return raw
    return Raw(str(int(number)).encode())


def _convert_or(raw: Raw | None, expected: Any, default: Any) -> Any:
    """The value in a type; `default` if there is no value, None if it is of another type."""
    if raw is None:
        return default
    try:
        return msgspec.json.decode(raw, type=expected)
    except msgspec.ValidationError:
        return None
