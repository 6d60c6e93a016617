"""COCO detection JSON, read and written. Format: https://cocodataset.org/#format-data.

A file whose records have the fields of COCO and no others is decoded straight into `Dataset` at C
speed. Where that does not fit, the section that does not is read record by record: what COCO does
not define is kept in `extra`, what can be mended is mended and counted, and what cannot be a record
is dropped and named in a finding.

Raw values (segmentations, unknown keys) point into the bytes of the file, which stay in memory
with the dataset; so they are written byte for byte as they came.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
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
    Record,
    Side,
    gc_paused,
)
from relaydet.data.findings import Finding
from relaydet.errors import RelayError

RecordType = TypeVar("RecordType", Image, Annotation, Category)
Fields = dict[str, Raw]

SECTIONS = ("images", "annotations", "categories")
CHUNK_RECORDS = 20_000
CHUNK_BYTES = 1 << 24

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
_MENDED = {
    "size-missing": ("images have no usable width and height", "to be read from the image files"),
    "area-missing": ("annotations have no usable area", "set to box width * height"),
    "id-missing": ("annotations have no id", "named after their place in the file"),
}


_KEYS: dict[type, frozenset[str]] = {
    kind: frozenset(kind.__struct_encode_fields__) for kind in (Image, Annotation, Category)
}
_FIELDS = msgspec.json.Decoder(Fields)
_ENCODER = msgspec.json.Encoder()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    info: dict[str, Any] = {}
    licenses: list[dict[str, Any]] = []


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read the COCO file `source.annotations`.

    Returns:
        The dataset with ids as in the file, and what reading noticed. Images whose width or height
        is not in the file have 0 there, until `checks.files.check_images` reads it from the image.

    Raises:
        RelayError: the file cannot be read, is not JSON, or is not a COCO detection file.
    """
    if source.split != "all":
        raise RelayError(
            f"source {source.name}: a COCO file has no parts, so its split is all, not"
            f" {source.split!r}; give the annotation file of that part instead."
        )
    try:
        data = Path(source.annotations).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RelayError(
            f"{source.annotations}: the annotation file of source {source.name} cannot be read"
            f" ({reason}); give the path of a COCO JSON file."
        ) from error
    return decode(data, source.name, source.annotations)


def decode(data: bytes, source: str, where: str) -> tuple[Dataset, list[Finding]]:
    """Read the bytes of a COCO file.

    Args:
        data: the file.
        source: name of the source, for the findings.
        where: what to call the file in an error message.

    Raises:
        RelayError: the bytes are not JSON, or not a COCO detection file.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    _refuse_other_encodings(data, where)
    try:
        with gc_paused():
            return _decode_whole(data, source, where)
    except RecursionError as error:
        raise RelayError(f"{where}: nested too deeply to be a COCO file.") from error
    except msgspec.DecodeError as error:
        raise RelayError(
            f"{where}: not valid JSON ({error}; the file has {len(data)} bytes); copy or export it"
            " again."
        ) from error


def encode(dataset: Dataset) -> bytes:
    """The dataset as the bytes of a COCO file; equal datasets give equal bytes.

    Boxes and areas must be finite (`checks.boxes` sees to that): JSON has no other numbers.
    """
    return b"".join(iter_encoded(dataset))


def iter_encoded(dataset: Dataset) -> Iterator[bytes]:
    """The bytes of `encode` in pieces, for writing a large dataset without holding it twice."""
    head = {"info": dataset.info, "licenses": dataset.licenses}
    yield msgspec.json.encode(head)[:-1]
    for section in ("categories", "images", "annotations"):
        yield f',\n"{section}":['.encode()
        records: Sequence[Record] = getattr(dataset, section)
        for start in range(0, len(records), CHUNK_RECORDS):
            yield b",\n" if start else b"\n"
            yield msgspec.json.encode(_spread(records[start : start + CHUNK_RECORDS]))[1:-1]
        yield b"]"
    yield b"}\n"


def _spread(records: Sequence[Record]) -> list[Record | Raw]:
    """Put the unknown keys of records back among their fields."""
    return [r if r.extra is UNSET else _spread_one(r, r.extra) for r in records]


def _spread_one(record: Record, extra: Fields) -> Raw:
    # `extra` is the last field, so the encoded record ends in ,"relaydet:extra":{...}}.
    whole, tail = msgspec.json.encode(record), msgspec.json.encode(extra)
    known = whole[: -len(f',"{EXTRA_KEY}":') - len(tail) - 1]
    return Raw(known + (b"," + tail[1:] if extra else b"}"))


def _refuse_other_encodings(data: bytes, where: str) -> None:
    # In pieces: as one string, a large file with a single accent would take twice its size.
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        try:
            decoder.decode(chunk, final=start + CHUNK_BYTES >= len(data))
        except UnicodeDecodeError as error:
            raise RelayError(
                f"{where}: not UTF-8 text (near byte {start + error.start}); save the file as"
                " UTF-8 JSON."
            ) from error


def _decode_whole(data: bytes, source: str, where: str) -> tuple[Dataset, list[Finding]]:
    try:
        file = msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError:
        return _decode_sections(data, source, where)
    for records in (file.images, file.annotations, file.categories):
        _refuse_reserved_key(any(r.extra is not UNSET for r in records), where)
    dataset = Dataset(file.images, file.annotations, file.categories, file.info, file.licenses)
    return dataset, []


def _decode_sections(data: bytes, source: str, where: str) -> tuple[Dataset, list[Finding]]:
    try:
        top = msgspec.json.decode(data, type=Fields)
    except msgspec.ValidationError as error:
        raise RelayError(_describe_other_shape(data, where)) from error
    missing = [section for section in SECTIONS if section not in top]
    if missing:
        raise RelayError(
            f"{where}: {' and '.join(missing)} missing (the file has {', '.join(top) or 'no keys'})"
            "; give a COCO detection file with images, annotations and categories."
        )
    images, of_images = _read_section(top["images"], Image, source, where)
    annotations, of_annotations = _read_section(top["annotations"], Annotation, source, where)
    categories, of_categories = _read_section(top["categories"], Category, source, where)
    info = _convert_or(top.get("info"), dict[str, Any], {})
    licenses = _convert_or(top.get("licenses"), list[dict[str, Any]], [])
    findings = of_images + of_annotations + of_categories
    left = [key for key in top if key not in (*SECTIONS, "info", "licenses")]
    left += [key for key, value in (("info", info), ("licenses", licenses)) if value is None]
    findings += [
        Finding("key-left", "info", source, f"{where}: {key!r} beside the images", "not carried")
        for key in left
    ]
    return Dataset(images, annotations, categories, info or {}, licenses or []), findings


def _read_section(
    raw: Raw, kind: type[RecordType], source: str, where: str
) -> tuple[list[RecordType], list[Finding]]:
    """Read a list of records, one by one where they do not all fit."""
    name = kind.__name__.lower()
    try:
        records: list[RecordType] = msgspec.json.decode(raw, type=list[kind])  # type: ignore[valid-type]
        _refuse_reserved_key(any(r.extra is not UNSET for r in records), where)
        return records, []
    except msgspec.ValidationError:
        rows = _convert_or(raw, list[Raw], [])
    if rows is None:
        raise RelayError(f"{where}: the {name} section is not a list; export the file again.")
    records, findings = [], []
    mended: Counter[str] = Counter()
    decoder = msgspec.json.Decoder(kind)
    for index, row in enumerate(rows):
        try:
            records.append(_read_record(row, decoder, index, mended, where))
        except msgspec.ValidationError as error:
            message = f"{name} {index} (counted from 0) of {where} cannot be used: {error}"
            place = _id_of(row) if kind is Annotation else None
            findings.append(
                Finding(f"{name}-unusable", "warning", source, message, "dropped", annotation=place)
            )
    for code, count in mended.items():
        what, action = _MENDED[code]
        findings.append(Finding(code, "info", source, f"{where}: {count} {what}", action))
    return records, findings


def _read_record(
    row: Raw,
    decoder: msgspec.json.Decoder[RecordType],
    index: int,
    mended: Counter[str],
    where: str,
) -> RecordType:
    """Read one record; raises msgspec.ValidationError where it cannot be one."""
    fields: Fields = _FIELDS.decode(row)
    _refuse_reserved_key(EXTRA_KEY in fields, where)
    kind = decoder.type
    unknown = [key for key in fields if key not in _KEYS[kind]]
    extra = {key: fields.pop(key) for key in unknown}
    try:
        record = decoder.decode(_ENCODER.encode(fields) if extra else row)
    except msgspec.ValidationError:
        moved, codes = _mend(kind, fields, index)
        record = decoder.decode(_ENCODER.encode(fields))
        extra.update(moved)
        mended.update(codes)
    if extra:
        record.extra = extra
    return record


def _mend(kind: type, known: Fields, index: int) -> tuple[Fields, list[str]]:
    """Replace, in place, values that need not stop a record from being one.

    Returns:
        Values taken out because another type than ours has the right to stand there, and codes of
        what was made up.
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


def _id_of(row: Raw) -> Id | None:
    fields = _convert_or(row, Fields, None) or {}
    return _convert_or(fields.get("id"), Id, None)


def _refuse_reserved_key(present: bool, where: str) -> None:
    if present:
        raise RelayError(f"{where}: the key {EXTRA_KEY!r} is reserved; rename it in the file.")


def _describe_other_shape(data: bytes, where: str) -> str:
    rows = msgspec.json.decode(data)
    first = rows[0] if isinstance(rows, list) and rows else None
    if isinstance(first, dict) and {"image_id", "score"} <= first.keys():
        what = "a list of detections (a COCO results file)"
    else:
        what = "a list" if isinstance(rows, list) else "a single value"
    return (
        f"{where}: holds {what}, not a COCO detection file; give the file with images,"
        " annotations and categories."
    )
