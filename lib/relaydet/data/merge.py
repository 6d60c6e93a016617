"""Several datasets into one: ids from 1, categories by name, provenance on every image.

What came in goes out: crowds, areas, segmentation bytes, licences and unknown keys. Records are
made anew rather than altered, so the parts stay usable.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Id, Image, gc_paused
from relaydet.data.findings import Finding
from relaydet.errors import RelayError

Extra = dict[str, Raw] | UnsetType

PROVENANCE = ("source", "source_id")


@dataclass(frozen=True)
class Part:
    """One source of a merge, read and checked."""

    source: SourceConfig
    dataset: Dataset
    sha256: str
    """Hex digest of its annotation file or files (`formats.hash_annotations`)."""


def merge(parts: Sequence[Part], categories: Sequence[str] = ()) -> tuple[Dataset, list[Finding]]:
    """Merge datasets into one.

    Ids of images, annotations, categories and licences become 1..N, in the order of the parts.
    `file_name` becomes "<source>/<file_name>"; `source` and `source_id` tell where an image came
    from, and values that it already had under those keys move to `original_source` and
    `original_source_id`.

    Args:
        parts: the sources; each has passed `checks.structure.check_structure`.
        categories: names to keep, or "old=new" to rename, in the order of the merged ids; empty
            keeps all, in the order of the parts. Images on which that leaves no object are dropped
            unless their source has `keep_empty`; with no filter, every image stays.

    Returns:
        The merged dataset, with `info.sources`, and what was left out or changed.

    Raises:
        RelayError: there is no part, two have one name, a name cannot be a folder's, a category is
            in no source, or no image is left.
    """
    _refuse_bad_names(parts)
    renames = _parse_categories(parts, categories)
    merged_categories, findings = _merge_categories(parts, renames)
    category_ids = {category.name: category.id for category in merged_categories}
    licenses, license_ids = _merge_licenses(parts)
    images: list[Image] = []
    annotations: list[Annotation] = []
    with gc_paused():
        for part, ids in zip(parts, license_ids, strict=True):
            wanted = {
                category.id: category_ids[renames[category.name]]
                for category in part.dataset.categories
                if category.name in renames
            }
            findings += _add_part(part, wanted, ids, bool(categories), images, annotations)
    if not images:
        raise RelayError(
            "The merge leaves no image: none has an object of the categories"
            f" {', '.join(categories) or 'there are'}; choose other CATEGORIES or set keep_empty."
        )
    if not annotations:
        message = "no object of any category is left"
        findings.append(Finding("no-objects", "warning", "", message, "kept, as background only"))
    return Dataset(images, annotations, merged_categories, _merge_info(parts), licenses), findings


def _refuse_bad_names(parts: Sequence[Part]) -> None:
    names = [part.source.name for part in parts]
    if not names:
        raise RelayError("The merge has no sources; name at least one in SOURCES.")
    for name in names:
        if names.count(name) > 1:
            raise RelayError(f"Two sources are named {name!r}; give each its own name in SOURCES.")
        if not name.strip(".") or "/" in name or "\\" in name:
            raise RelayError(
                f"The source name {name!r} cannot be the first part of a path; use letters, digits,"
                " - and _ in SOURCES."
            )


def _parse_categories(parts: Sequence[Part], categories: Sequence[str]) -> dict[str, str]:
    """New name of every category to keep, by its name in the sources."""
    known = list(dict.fromkeys(c.name for part in parts for c in part.dataset.categories))
    if not categories:
        return {name: name for name in known}
    renames: dict[str, str] = {}
    for entry in categories:
        old, equals, new = (entry, "", "") if entry in known else entry.partition("=")
        old, new = old.strip(), (new.strip() if equals else old.strip())
        if old not in known:
            by_case = [name for name in known if name.casefold() == old.casefold()]
            close = by_case or difflib.get_close_matches(old, known, n=1, cutoff=0.6)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise RelayError(
                f"CATEGORIES: no source has a category {old!r}{hint}; there are"
                f" {', '.join(known) or 'none at all'}."
            )
        if not new or renames.setdefault(old, new) != new:
            raise RelayError(
                f"CATEGORIES: {entry!r} gives {old!r} "
                + (f"a second name beside {renames[old]!r}." if new else "no new name after '='.")
            )
    return renames


def _merge_categories(
    parts: Sequence[Part], renames: dict[str, str]
) -> tuple[list[Category], list[Finding]]:
    """One category per new name, in the order of `renames`, with the first source's fields."""
    merged: dict[str, Category | None] = dict.fromkeys(renames.values())
    findings = []
    for part in parts:
        name = part.source.name
        categories = part.dataset.categories
        for category in categories:
            new = renames.get(category.name)
            if new is None:
                continue
            first = merged[new]
            merged[new] = _fill(first, category) if first else msgspec.structs.replace(category)
            if first and not _agree(first, category):
                message = f"category {category.name} has other fields than in an earlier source"
                findings.append(Finding("category-differs", "info", name, message, "first kept"))
        if categories and not any(category.name in renames for category in categories):
            there = ", ".join(category.name for category in categories[:10])
            message = f"has none of the categories {', '.join(renames)}, but {there}"
            findings.append(Finding("category-absent", "warning", name, message, "nothing taken"))
    numbered = enumerate(merged.items(), start=1)
    # Every name in `renames` is a category of some part, so no value is None any more.
    return [
        msgspec.structs.replace(category, id=number, name=new)
        for number, (new, category) in numbered
        if category is not None
    ], findings


def _category_fields(category: Category) -> dict[str, Any]:
    fields: dict[str, Any] = {} if category.extra is UNSET else dict(category.extra)
    if category.supercategory is not UNSET:
        fields["supercategory"] = Raw(msgspec.json.encode(category.supercategory))
    return fields


def _agree(first: Category, later: Category) -> bool:
    fields = _category_fields(first)
    return all(fields.get(key, value) == value for key, value in _category_fields(later).items())


def _fill(first: Category, later: Category) -> Category:
    """The first category, with the fields that only the later one has."""
    extra = {**_category_fields(later), **_category_fields(first)}
    supercategory: str | UnsetType = UNSET
    # Not every file has text there; what else it has stays among the unknown keys.
    if bytes(extra.get("supercategory", b"")).startswith(b'"'):
        supercategory = msgspec.json.decode(extra.pop("supercategory"), type=str)
    return msgspec.structs.replace(first, supercategory=supercategory, extra=extra or UNSET)


def _merge_licenses(parts: Sequence[Part]) -> tuple[list[dict[str, Any]], list[dict[bytes, Raw]]]:
    """All licences once, numbered from 1, and for each part the new id by the old one's JSON."""
    merged: dict[bytes, dict[str, Any]] = {}
    new_ids = []
    for part in parts:
        ids: dict[bytes, Raw] = {}
        for entry in part.dataset.licenses:
            rest = {key: value for key, value in entry.items() if key != "id"}
            content = msgspec.json.encode(rest, order="sorted")
            number = merged.setdefault(content, {"id": len(merged) + 1, **rest})["id"]
            if "id" in entry:
                ids.setdefault(msgspec.json.encode(entry["id"]), Raw(str(number).encode()))
        new_ids.append(ids)
    return list(merged.values()), new_ids


def _add_part(
    part: Part,
    wanted: dict[Id, Id],
    license_ids: dict[bytes, Raw],
    filtered: bool,
    images: list[Image],
    annotations: list[Annotation],
) -> list[Finding]:
    """Append the records of a part to the merged ones."""
    source, dataset = part.source, part.dataset
    kept = [a for a in dataset.annotations if a.category_id in wanted]
    used = dataset.images
    if filtered and not source.keep_empty:
        with_object = {annotation.image_id for annotation in kept}
        used = [image for image in dataset.images if image.id in with_object]
    new_ids = {image.id: number for number, image in enumerate(used, start=len(images) + 1)}
    unlisted = _add_images(used, source.name, license_ids, images)
    annotations += [
        Annotation(
            number,
            new_ids[a.image_id],
            wanted[a.category_id],
            a.bbox,
            a.area,
            a.iscrowd,
            a.segmentation,
            a.extra,
        )
        for number, a in enumerate(kept, start=len(annotations) + 1)
    ]
    counts = [
        (
            "annotation-filtered",
            len(dataset.annotations) - len(kept),
            "annotations of other categories",
            "left out",
        ),
        (
            "image-filtered",
            len(dataset.images) - len(used),
            "images have no object of the categories",
            "left out",
        ),
        (
            "license-unlisted",
            unlisted,
            "images name a licence that the source does not list",
            "kept as original_license",
        ),
    ]
    return [
        Finding(code, "info", source.name, f"{count} {what}", action)
        for code, count, what, action in counts
        if count
    ]


def _add_images(
    used: list[Image], source: str, license_ids: dict[bytes, Raw], images: list[Image]
) -> int:
    """Append images with their new ids; returns how many name a licence that is not listed."""
    unlisted = 0
    for number, image in enumerate(used, start=len(images) + 1):
        license, extra = image.license, _keep_provenance(image)
        if license is not UNSET:
            license = license_ids.get(bytes(license), license)
            # Left in place, an unlisted id would come to mean another source's licence.
            if license is image.license and bytes(license) != b"null":
                extra = _with_key(extra, "original_license", license)
                license, unlisted = UNSET, unlisted + 1
        images.append(
            Image(
                number,
                f"{source}/{image.file_name}",
                image.width,
                image.height,
                license,
                image.coco_url,
                image.flickr_url,
                image.date_captured,
                source,
                image.id,
                extra,
            )
        )
    return unlisted


def _keep_provenance(image: Image) -> Extra:
    """The unknown keys of an image, with an incoming source and source_id moved out of the way."""
    extra = image.extra
    for key in PROVENANCE:
        value = getattr(image, key)
        if value is not UNSET:
            extra = _with_key(extra, f"original_{key}", Raw(msgspec.json.encode(value)))
        elif isinstance(extra, dict) and key in extra:
            rest = {name: raw for name, raw in extra.items() if name != key}
            extra = _with_key(rest, f"original_{key}", extra[key])
    return extra


def _with_key(extra: Extra, key: str, value: Raw) -> dict[str, Raw]:
    """Unknown keys and one more, which gets another name where its own is taken."""
    taken = {} if extra is UNSET else extra
    while key in taken:
        key = f"original_{key}"
    return {**taken, key: value}


def _merge_info(parts: Sequence[Part]) -> dict[str, Any]:
    info: dict[str, Any] = {
        "description": "Merged by relaydet",
        "sources": {
            part.source.name: {
                "format": part.source.format,
                "annotations": part.source.annotations,
                "images": part.source.images,
                "sha256": part.sha256,
                "licence": part.source.licence,
            }
            for part in parts
        },
    }
    originals = {part.source.name: part.dataset.info for part in parts if part.dataset.info}
    if originals:
        info["original_info"] = originals
    return info
