"""COCO detection JSON, read and written. Format: https://cocodataset.org/#format-data.

A file is decoded straight into `Dataset` at C speed; keys that COCO does not define are found in
passing and kept in `extra`. A file that does not fit as a whole is read record by record
(`coco_repair`): what can be mended is mended and counted, and what cannot be a record is dropped
and named in a finding.

Raw values (segmentations, unknown keys) point into the bytes of the file, which stay in memory
with the dataset; so they are written byte for byte as they came.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from relaydet.addresses import shown
from relaydet.config import SourceConfig
from relaydet.data.dataset import (
    EXTRA_KEY,
    Annotation,
    Category,
    Dataset,
    Image,
    Record,
    gc_paused,
)
from relaydet.data.findings import Finding
from relaydet.data.formats.coco_repair import (
    decode_loosely,
    holds_not_finite,
    keys_left,
    read_metadata,
    refuse_reserved_key,
)
from relaydet.data.formats.json_walk import UnbalancedError, elements
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError

KINDS: dict[str, type[Record]] = {
    "images": Image,
    "annotations": Annotation,
    "categories": Category,
}
# Every further field costs each record 8 bytes, and each costs one more start of the decoding.
MAX_UNKNOWN_KEYS = 24
CHUNK_RECORDS = 20_000
CHUNK_BYTES = 1 << 24

_ENCODER = msgspec.json.Encoder()

_UNKNOWN_KEY = re.compile(
    r"Object contains unknown field `(?P<key>.*?)`"
    r"(?: - at `\$(?:\.(?P<section>images|annotations|categories)\[.*\])?`)?$",
    re.DOTALL,
)


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
    data = read_bytes(source.annotations)
    return decode(data, source.name, shown(source.annotations))


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
    except (msgspec.DecodeError, UnbalancedError) as error:
        raise RelayError(
            f"{where}: not valid JSON ({error}; the file has {len(data)} bytes); copy or export it"
            " again."
        ) from error


def encode(dataset: Dataset) -> bytes:
    """The dataset as the bytes of a COCO file; equal datasets give equal bytes.

    Boxes and areas must be finite (`checks.boxes` sees to that): JSON has no other numbers.
    """
    return b"".join(iter_encoded(dataset))


def iter_encoded(dataset: Dataset) -> Iterator[bytes | memoryview]:
    """The bytes of `encode` in pieces, for writing a large dataset without holding it twice."""
    head = {"info": dataset.info, "licenses": dataset.licenses}
    yield msgspec.json.encode(head)[:-1]
    for section in ("categories", "images", "annotations"):
        yield f',\n"{section}":['.encode()
        records: Sequence[Record] = getattr(dataset, section)
        for start in range(0, len(records), CHUNK_RECORDS):
            yield b",\n" if start else b"\n"
            encoded = _ENCODER.encode(_spread(records[start : start + CHUNK_RECORDS]))
            yield memoryview(encoded)[1:-1]
        yield b"]"
    yield b"}\n"


def _spread(records: Sequence[Record]) -> Sequence[Record | Raw]:
    """Put the unknown keys of records back among their fields."""
    if [r.extra for r in records].count(UNSET) == len(records):
        return records
    return [r if r.extra is UNSET else _spread_one(r, r.extra) for r in records]


def _spread_one(record: Record, extra: dict[str, Raw]) -> Raw:
    # `extra` is the last field, so the encoded record ends in ,"relaydet:extra":{...}}.
    whole, tail = _ENCODER.encode(record), _ENCODER.encode(extra)
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
    """Decode at C speed, with a field for every key that the file turns out to have."""
    unknown: dict[str, list[str]] = {"": [], **{section: [] for section in KINDS}}
    while sum(map(len, unknown.values())) <= MAX_UNKNOWN_KEYS:
        try:
            file: Any = msgspec.json.decode(data, type=_file_type(unknown))
        except msgspec.ValidationError as error:
            found = _UNKNOWN_KEY.match(str(error))
            if found is None or not _can_be_field(found["key"]):
                break
            keys = unknown[found["section"] or ""]
            if found["key"] in keys:
                break
            keys.append(found["key"])
        except msgspec.DecodeError:
            if holds_not_finite(data):
                break
            raise
        else:
            return _as_dataset(file, unknown, source, where)
    _refuse_other_shape(data, where)
    return decode_loosely(data, source, where)


def _can_be_field(key: str) -> bool:
    return key.isprintable() and not {'"', "\\"} & set(key)


def _file_type(unknown: dict[str, list[str]]) -> type:
    fields: list[Any] = [
        (section, list[_with_keys(kind, unknown[section])])  # type: ignore[misc]
        for section, kind in KINDS.items()
    ]
    fields += [(key, Raw, msgspec.field(default=Raw(b""))) for key in ("info", "licenses")]
    fields += _raw_fields(unknown[""])
    return msgspec.defstruct("File", fields, forbid_unknown_fields=True)


def _with_keys(kind: type, keys: list[str]) -> type:
    """A record type with further fields."""
    if not keys:
        return kind
    name = f"{kind.__name__}WithKeys"
    return msgspec.defstruct(
        name, _raw_fields(keys), bases=(kind,), forbid_unknown_fields=True, gc=False
    )


def _raw_fields(keys: list[str]) -> list[tuple[str, Any, Any]]:
    # Keys of a file need not be names that Python could have.
    return [
        (f"unknown_{number}", Raw | UnsetType, msgspec.field(default=UNSET, name=key))
        for number, key in enumerate(keys)
    ]


def _as_dataset(
    file: Any, unknown: dict[str, list[str]], source: str, where: str
) -> tuple[Dataset, list[Finding]]:
    for section, kind in KINDS.items():
        records = getattr(file, section)
        refuse_reserved_key([r.extra for r in records].count(UNSET) < len(records), where)
        if unknown[section]:
            _gather(records, kind, unknown[section])
    info = read_metadata(bytes(file.info), dict[str, Any])
    licenses = read_metadata(bytes(file.licenses), list[dict[str, Any]])
    left = [key for key, value in (("info", info), ("licenses", licenses)) if value is None]
    dataset = Dataset(file.images, file.annotations, file.categories, info or {}, licenses or [])
    return dataset, keys_left(unknown[""] + left, source, where)


def _gather(records: list[Any], kind: Any, keys: list[str]) -> None:
    """Put what stands in the further fields of records into `extra`, in place."""
    known = attrgetter(*[name for name in kind.__struct_fields__ if name != "extra"])
    further = attrgetter(*[f"unknown_{number}" for number in range(len(keys))])
    one = len(keys) == 1  # attrgetter then gives no tuple
    for index, record in enumerate(records):
        values = (further(record),) if one else further(record)
        extra = {key: value for key, value in zip(keys, values, strict=True) if value is not UNSET}
        records[index] = kind(*known(record), extra or UNSET)


def _refuse_other_shape(data: bytes, where: str) -> None:
    text = data.lstrip()[:1]
    if text == b"{":
        return
    what = "a single value"
    if text == b"[":
        start = data.index(b"[")
        first = next(elements(data, start), (start, start))
        keys = _keys_of(data[slice(*first)])
        is_results = {"image_id", "score"} <= keys
        what = "a list of detections (a COCO results file)" if is_results else "a list"
    raise RelayError(
        f"{where}: holds {what}, not a COCO detection file; give the file with images,"
        " annotations and categories."
    )


def _keys_of(row: bytes) -> set[str]:
    try:
        return set(msgspec.json.decode(row, type=dict[str, Raw]))
    except msgspec.DecodeError:
        return set()
