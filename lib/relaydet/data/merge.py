"""Several datasets into one: ids from 1, categories by name, provenance on every image.

What came in goes out: crowds, areas, segmentation bytes, licences and unknown keys. The parts are
used up: their records are renumbered where they are, for making hundreds of thousands anew takes
as much memory again. That only starts when nothing can go wrong any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from relaydet.addresses import shown
from relaydet.config import SourceConfig, check_name
from relaydet.data.categories import category_names, parse_categories
from relaydet.data.dataset import Category, Dataset, Image, gc_paused
from relaydet.data.findings import Finding
from relaydet.data.narrow import drop_empty, keep_categories, select_all
from relaydet.errors import RelayError

Extra = dict[str, Raw] | UnsetType

LONGEST_NAME = 100  # bytes of a source; file names are made of it
PROVENANCE = ("source", "source_id")


@dataclass
class Part:
    """One source of a merge, read and checked; `merge` uses it up."""

    source: SourceConfig
    dataset: Dataset
    sha256: str
    """Hex digest of its annotation file or files (`formats.hash_annotations`)."""
    used: bool = field(default=False, init=False)
    """A merge has renumbered its records, so it cannot be merged again."""


def merge(parts: Sequence[Part], categories: Sequence[str] = ()) -> tuple[Dataset, list[Finding]]:
    """Merge datasets into one.

    Ids of images, annotations, categories and licences become 1..N, in the order of the parts.
    `file_name` becomes "<source>/<file_name>"; `source` and `source_id` tell where an image came
    from, and values that it already had under those keys move to `original_source` and
    `original_source_id`.

    Args:
        parts: the sources; each has passed `checks.structure.check_structure`. Their images and
            annotations become the merged ones, so read them again for another merge. Where an
            exception is raised, they are as they were.
        categories: as `categories.parse_categories` reads them; empty keeps all, in the order of
            the parts. Images on which that leaves no object are dropped unless their source has
            `keep_empty`; with no filter, every image stays.

    Returns:
        The merged dataset, with `info.sources`, and what was left out or changed.

    Raises:
        RelayError: there is no part, two have one name, a name cannot be a folder's, a category is
            in no source, or no image is left.
        ValueError: a part was merged before, or an image is in two of them.
    """
    refuse_bad_names([part.source.name for part in parts])
    _refuse_used(parts)
    renames = parse_categories(category_names(part.dataset for part in parts), categories)
    merged_categories, findings = _merge_categories(parts, renames)
    licenses, license_ids = _merge_licenses(parts)
    kept: list[Dataset] = []
    for part in parts:
        selection = select_all(part.dataset)
        findings += keep_categories(selection, renames, part.source.name)
        if categories and not part.source.keep_empty:
            findings += drop_empty(selection, part.source.name)
        kept.append(selection.cut())
    if not any(dataset.images for dataset in kept):
        raise RelayError(
            "The merge leaves no image: none has an object of the categories"
            f" {', '.join(categories) or 'there are'}; choose other CATEGORIES or set keep_empty."
        )
    merged = Dataset([], [], merged_categories, _merge_info(parts), licenses)
    with gc_paused():
        for part, dataset, ids in zip(parts, kept, license_ids, strict=True):
            part.used = True
            _add_annotations(dataset, renames, merged)
            findings += _add_images(dataset.images, part.source.name, ids, merged)
    if not merged.annotations:
        message = "no object of any category is left"
        findings.append(Finding("no-objects", "warning", "", message, "kept, as background only"))
    return merged, findings


def refuse_bad_names(names: Sequence[str]) -> None:
    """Raise RelayError unless the names of sources can each be a folder's, and differ."""
    if not names:
        raise RelayError("The merge has no sources; name at least one in SOURCES.")
    for name in names:
        if names.count(name) > 1:
            raise RelayError(f"Two sources are named {name!r}; give each its own name in SOURCES.")
        check_name("SOURCES: name", name, LONGEST_NAME)


def _refuse_used(parts: Sequence[Part]) -> None:
    images = [id(image) for part in parts for image in part.dataset.images]
    if any(part.used for part in parts) or len(set(images)) < len(images):
        raise ValueError("a merge uses up its parts; read them again")


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
                message = (
                    f"category {category.name} has other fields than an earlier one of that name"
                )
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


def _add_annotations(dataset: Dataset, renames: dict[str, str], merged: Dataset) -> None:
    """Renumber annotations, those of image row 0 for the next image of `merged`; append them.

    Args:
        dataset: what is taken of a part.
        renames: new name by old name of the categories.
        merged: what is appended to; its categories are the merged ones.
    """
    number_of = {category.name: category.id for category in merged.categories}
    category_ids = {
        category.id: number_of[renames[category.name]]
        for category in dataset.categories
        if category.name in renames
    }
    first = len(merged.annotations) + 1
    numbers = range(first, first + len(dataset.annotations))
    image_ids = (dataset.image_rows_N + len(merged.images) + 1).tolist()
    for annotation, number, image_id in zip(dataset.annotations, numbers, image_ids, strict=True):
        annotation.id = number
        annotation.image_id = image_id
    if any(old != new for old, new in category_ids.items()):
        for annotation in dataset.annotations:
            annotation.category_id = category_ids[annotation.category_id]
    merged.annotations.extend(dataset.annotations)


def _add_images(
    images: list[Image], source: str, license_ids: dict[bytes, Raw], merged: Dataset
) -> list[Finding]:
    """Give images their ids, names, source and licence in the merged dataset; append them."""
    unlisted = 0
    for number, image in enumerate(images, start=len(merged.images) + 1):
        if image.extra is not UNSET or image.source is not UNSET or image.source_id is not UNSET:
            image.extra = _keep_provenance(image)
        license = image.license
        if license is not UNSET:
            known = license_ids.get(bytes(license))
            if known is not None:
                image.license = known
            # Left in place, an unlisted id would come to mean another source's licence.
            elif bytes(license) != b"null":
                image.extra = _with_key(image.extra, "original_license", license)
                image.license, unlisted = UNSET, unlisted + 1
        image.source_id, image.id = image.id, number
        image.file_name, image.source = f"{source}/{image.file_name}", source
    merged.images.extend(images)
    message = f"{unlisted} images name a licence that the source does not list"
    action = "kept as original_license"
    return [Finding("license-unlisted", "info", source, message, action)] if unlisted else []


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
                "annotations": shown(part.source.annotations),
                "images": shown(part.source.images),
                "sha256": part.sha256,
                "licence": part.source.licence,
                # Told only where it is so: the address alone may lead to something else.
                **({"key_needed": True} if shown(part.source.images) != part.source.images else {}),
            }
            for part in parts
        },
    }
    originals = {
        part.source.name: _without_keys(part.dataset.info) for part in parts if part.dataset.info
    }
    if originals:
        info["original_info"] = originals
    return info


def _without_keys(info: dict[str, Any]) -> dict[str, Any]:
    """The info of a source that is a merge itself, of an older version, without secrets."""
    sources = info.get("sources")
    if not isinstance(sources, dict):
        return info
    cleaned = {
        name: {
            key: shown(value)
            if isinstance(value, str) and key in ("annotations", "images")
            else value
            for key, value in facts.items()
        }
        if isinstance(facts, dict)
        else facts
        for name, facts in sources.items()
    }
    return {**info, "sources": cleaned}
