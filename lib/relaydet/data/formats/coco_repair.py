"""COCO files that do not fit the format as a whole, read record by record.

What COCO does not define is kept in `extra`, what can be mended is mended and counted, and what
cannot be a record is dropped and named in a finding. NaN and Infinity, which Python's json writes
and JSON does not have, are read as null.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw

from relaydet.data.dataset import (
    EXTRA_KEY,
    Annotation,
    Category,
    Dataset,
    Id,
    Image,
)
from relaydet.data.findings import Finding
from relaydet.data.formats import json_walk
from relaydet.data.formats.coco_mend import MENDED, Fields, mend
from relaydet.errors import RelayError

RecordType = TypeVar("RecordType", Image, Annotation, Category)
Text = bytes | Raw

SECTIONS = ("images", "annotations", "categories")
# Limits that keep what a hostile file can make of memory in proportion to its size.
MAX_NAMED = 100  # findings of one kind in a section; the rest is counted
MAX_KEYS = 1_000  # of a record
MAX_METADATA = 1 << 20  # bytes of `info`, `licenses` and unknown keys that are always read
CONTAINER_BYTES = 12  # of text for each list and dict in large metadata, at least
MIN_RECORD = 10  # bytes of a record, below which a Raw for each would take too much

_KEYS: dict[type, frozenset[str]] = {
    kind: frozenset(kind.__struct_encode_fields__) for kind in (Image, Annotation, Category)
}
_NOT_FINITE = re.compile(rb"(?<=[:\[,\s])[-+]?(?:NaN|Infinity)(?=[\s,\]}])")
_FIELDS = msgspec.json.Decoder(Fields)
_ENCODER = msgspec.json.Encoder()


def holds_not_finite(data: bytes) -> bool:
    """Whether the text seems to hold a NaN or an Infinity where a number should be."""
    return _NOT_FINITE.search(data) is not None


def decode_loosely(data: bytes, source: str, where: str) -> tuple[Dataset, list[Finding]]:
    """Read the bytes of a COCO file, each record by itself.

    Args:
        data: the file.
        source: name of the source, for the findings.
        where: what to call the file in an error message.

    Raises:
        RelayError: the text is no JSON object, or has not the three sections as lists.
        json_walk.UnbalancedError: it is cut off.
    """
    sections, left = _find_sections(data)
    missing = [section for section in SECTIONS if section not in sections]
    if missing:
        raise RelayError(
            f"{where}: {' and '.join(missing)} missing (the file has"
            f" {', '.join([*sections, *left]) or 'no keys'}); give a COCO detection file with"
            " images, annotations and categories."
        )
    images, of_images = _read_section(sections["images"], Image, source, where)
    annotations, found = _read_section(sections["annotations"], Annotation, source, where)
    categories, of_categories = _read_section(sections["categories"], Category, source, where)
    info = read_metadata(bytes(sections.get("info", b"")), dict[str, Any])
    licenses = read_metadata(bytes(sections.get("licenses", b"")), list[dict[str, Any]])
    left += [key for key, value in (("info", info), ("licenses", licenses)) if value is None]
    findings = of_images + found + of_categories + keys_left(left, source, where)
    return Dataset(images, annotations, categories, info or {}, licenses or []), findings


def keys_left(keys: list[str], source: str, where: str) -> list[Finding]:
    """Findings that name what stands beside the sections and is not carried."""
    return [
        Finding("key-left", "info", source, f"{where}: {key!r} beside the images", "not carried")
        for key in keys
    ]


def read_metadata(text: bytes, kind: Any) -> Any:
    """The value of `info` or `licenses`: empty without one, None where it is unusable."""
    if not text:
        return kind()
    # As Python objects, lists and dicts take many times what empty ones take as text.
    containers = text.count(b"{") + text.count(b"[")
    if len(text) > MAX_METADATA and len(text) < CONTAINER_BYTES * containers:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None


def refuse_reserved_key(present: bool, where: str) -> None:
    """Raise RelayError where a record has the key that ours is kept under."""
    if present:
        raise RelayError(f"{where}: the key {EXTRA_KEY!r} is reserved; rename it in the file.")


def _find_sections(data: bytes) -> tuple[dict[str, Text], list[str]]:
    """The known members as text, and the names of the others, as far as they are few."""
    sections: dict[str, Text] = {}
    left: dict[str, None] = {}
    for key, text in _members(data):
        if key in (*SECTIONS, "info", "licenses"):
            sections[key] = text
        elif len(left) < MAX_NAMED:
            left[key[:MAX_NAMED]] = None
    return sections, list(left)


def _members(data: bytes) -> Iterable[tuple[str, Text]]:
    """The members of the file; at C speed where it is whole, and there are not very many."""
    try:
        known = msgspec.json.decode(data, type=_Sections)
        others = len(data) - sum(len(bytes(getattr(known, name))) for name in SECTIONS)
        if others <= MAX_METADATA:
            return msgspec.json.decode(data, type=Fields).items()
    except msgspec.DecodeError:
        pass  # a broken file may still have sound sections: walk through it
    return ((key, data[start:end]) for key, start, end in json_walk.members(data))


def _rows(section: Text) -> Iterable[Text]:
    """The elements of a list; at C speed where all are objects that are not very small."""
    size = len(bytes(section))
    try:
        count = len(msgspec.json.decode(section, type=list[_Anything]))
        if count * MIN_RECORD <= size:
            return msgspec.json.decode(section, type=list[Raw])
    except msgspec.DecodeError:
        pass  # something in it is odd, which the walk will come to
    text = bytes(section)
    return (text[start:end] for start, end in json_walk.elements(text, 0))


def _read_section(
    section: Text, kind: type[RecordType], source: str, where: str
) -> tuple[list[RecordType], list[Finding]]:
    name = kind.__name__.lower()
    if bytes(section)[:1] != b"[":
        raise RelayError(f"{where}: the {name} section is not a list; export the file again.")
    records, findings = [], []
    counts: Counter[str] = Counter()
    decoder = msgspec.json.Decoder(kind)
    for index, row in enumerate(_rows(section)):
        try:
            records.append(_read_record(row, decoder, index, counts, where))
        except msgspec.DecodeError as error:
            counts["unusable"] += 1
            if counts["unusable"] <= MAX_NAMED:
                message = f"{name} {index} (counted from 0) of {where} cannot be used: {error}"
                place = _id_of(row) if kind is Annotation else None
                findings.append(_unusable(name, source, message, place))
    more = counts.pop("unusable", 0) - MAX_NAMED
    if more > 0:
        findings.append(_unusable(name, source, f"{more} more {name} records of {where}", None))
    for code, count in counts.items():
        what, action = MENDED[code]
        findings.append(Finding(code, "info", source, f"{where}: {count} {what}", action))
    return records, findings


def _unusable(name: str, source: str, message: str, annotation: Id | None) -> Finding:
    code = f"{name}-unusable"
    return Finding(code, "warning", source, message, "dropped", annotation=annotation)


def _read_record(
    row: Text,
    decoder: msgspec.json.Decoder[RecordType],
    index: int,
    counts: Counter[str],
    where: str,
) -> RecordType:
    """Read one record; raises msgspec.DecodeError where it cannot be one."""
    try:
        record = decoder.decode(row)  # most records of a file are sound
    except msgspec.DecodeError:
        return _read_odd_record(bytes(row), decoder, index, counts, where)
    refuse_reserved_key(record.extra is not UNSET, where)
    return record


def _read_odd_record(
    row: bytes,
    decoder: msgspec.json.Decoder[RecordType],
    index: int,
    counts: Counter[str],
    where: str,
) -> RecordType:
    row, fields = _read_fields(row)
    refuse_reserved_key(EXTRA_KEY in fields, where)
    kind = cast("type", decoder.type)  # some releases of msgspec say TypeForm
    unknown = [key for key in fields if key not in _KEYS[kind]]
    extra = {key: fields.pop(key) for key in unknown}
    try:
        record = decoder.decode(_ENCODER.encode(fields) if extra else row)
    except msgspec.ValidationError:
        moved, codes = mend(kind, fields, index)
        record = decoder.decode(_ENCODER.encode(fields))
        extra.update(moved)
        counts.update(codes)
    if extra:
        record.extra = extra
    return record


def _read_fields(row: bytes) -> tuple[bytes, Fields]:
    """A record as text and as raw values by key, with null for numbers that are not finite."""
    if row[:1] != b"{":
        raise msgspec.ValidationError("it is no object")
    if row.count(b":") > MAX_KEYS:
        raise msgspec.ValidationError(f"it has over {MAX_KEYS} keys")
    try:
        return row, _FIELDS.decode(row)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Here the text is broken anyhow, so a string that says ", NaN," may be hit as well.
        row = _NOT_FINITE.sub(b"null", row)
        return row, _FIELDS.decode(row)


def _id_of(row: Text) -> Id | None:
    try:
        return msgspec.json.decode(row, type=_WithId).id
    except msgspec.DecodeError:
        return None


class _WithId(msgspec.Struct):
    id: Id | None = None


class _Sections(msgspec.Struct):
    images: Raw = Raw(b"")
    annotations: Raw = Raw(b"")
    categories: Raw = Raw(b"")


class _Anything(msgspec.Struct, gc=False):
    """Any object, of which nothing is kept."""
