"""Checks of ids and references: what is listed twice, and what refers to nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from relaydet.data.checks.summing import first_of, sum_up
from relaydet.data.dataset import Annotation, Category, Dataset, Id, Image, gc_paused
from relaydet.data.findings import Finding
from relaydet.errors import RelayError

RecordType = TypeVar("RecordType", Image, Category)


def check_structure(dataset: Dataset, source: str) -> tuple[Dataset, list[Finding]]:
    """Drop repeated records, and annotations of an image or category that there is not.

    An image or category id that stands for two things keeps the first. An annotation whose id is
    taken is only dropped if it repeats that annotation entirely: no other record refers to
    annotation ids, and a merge gives every one its own.

    Raises:
        RelayError: there is no image, or no annotation belongs to any image.
    """
    refuse_empty(dataset, source)
    with gc_paused():
        image_ids = {image.id for image in dataset.images}
        category_ids = {category.id for category in dataset.categories}
        annotation_ids = [annotation.id for annotation in dataset.annotations]
        images, findings = _drop_taken_ids(dataset.images, image_ids, source, lambda i: i.file_name)
        categories, of_categories = _drop_taken_ids(
            dataset.categories, category_ids, source, lambda c: c.name
        )
        annotations, of_repeats = _drop_repeated(dataset.annotations, annotation_ids, source)
        findings += of_categories + of_repeats
        findings += _zeros(image_ids, annotation_ids, category_ids, source)
        if findings:
            dataset = replace(
                dataset, images=images, annotations=annotations, categories=categories
            )
        unknown = {annotation.category_id for annotation in annotations} - category_ids
        if unknown or (dataset.image_rows_N < 0).any():
            findings += _dangling(annotations, image_ids, category_ids, source)
            sound = [
                a for a in annotations if a.image_id in image_ids and a.category_id in category_ids
            ]
            dataset = replace(dataset, annotations=sound)
        findings += _shared_files(images, source)
    return dataset, sum_up(findings)


def refuse_empty(dataset: Dataset, source: str) -> None:
    """Raise RelayError where a dataset has no image left."""
    if not dataset.images:
        raise RelayError(
            f"source {source}: no image is left; check its annotations, its split and its images."
        )


def _shared_files(images: list[Image], source: str) -> list[Finding]:
    """A finding for each image whose file an earlier one has too."""
    if len({image.file_name for image in images}) == len(images):
        return []
    first: dict[str, Image] = {}
    return first_of(
        [image for image in images if first.setdefault(image.file_name, image) is not image],
        lambda image: Finding(
            "image-file-shared",
            "warning",
            source,
            f"{image.file_name} is the file of image {first[image.file_name].id} and of image"
            f" {image.id}; each has only its own annotations",
            "kept",
            image.file_name,
        ),
    )


def _zeros(
    image_ids: Collection[Id],
    annotation_ids: Collection[Id],
    category_ids: Collection[Id],
    source: str,
) -> list[Finding]:
    """A finding for each kind of record of which one has id 0."""
    kinds = [
        ("image", image_ids, "which some programs take for none"),
        ("annotation", annotation_ids, "which pycocotools never counts as found when it scores"),
        ("category", category_ids, "which torchvision's detectors keep for the background"),
    ]
    return [
        Finding(
            "id-zero",
            "info",
            source,
            f"one {kind} has the id 0, {why}",
            "renumbered",
            annotation=0 if kind == "annotation" else None,
        )
        for kind, ids, why in kinds
        if 0 in ids
    ]


def _drop_taken_ids(
    records: list[RecordType], ids: set[Id], source: str, name_of: Callable[[RecordType], str]
) -> tuple[list[RecordType], list[Finding]]:
    """Keep the first record of every id."""
    if len(ids) == len(records):
        return records, []
    first: dict[Id, RecordType] = {}
    findings = []
    for record in records:
        holder = first.setdefault(record.id, record)
        if holder is record:
            continue
        kind = type(record).__name__.lower()
        # One name twice is only repeated. Two names: annotations may mean either of them.
        same = name_of(holder) == name_of(record)
        message = f"{kind} id {record.id} is of {name_of(holder)} and of {name_of(record)}"
        image = name_of(record) if kind == "image" else None
        findings.append(
            Finding(
                f"{kind}-id-taken",
                "warning" if same else "error",
                source,
                f"{kind} {name_of(record)} (id {record.id}) is listed twice" if same else message,
                "repetition dropped" if same else "first kept, with all annotations of that id",
                image,
            )
        )
    return list(first.values()), findings


def _drop_repeated(
    annotations: list[Annotation], ids: list[Id], source: str
) -> tuple[list[Annotation], list[Finding]]:
    if _all_differ(ids):
        return annotations, []
    first: dict[Id, Annotation] = {}
    kept, findings = [], []
    for annotation in annotations:
        holder = first.setdefault(annotation.id, annotation)
        if holder is annotation:
            kept.append(annotation)
            continue
        repeated = holder == annotation
        if not repeated:
            kept.append(annotation)
        findings.append(
            Finding(
                "annotation-repeated" if repeated else "annotation-id-taken",
                "warning",
                source,
                f"annotation {annotation.id} is listed twice"
                if repeated
                else f"two different annotations have the id {annotation.id}",
                "repetition dropped" if repeated else "both kept",
                annotation=annotation.id,
            )
        )
    return kept, findings


def _all_differ(ids: list[Id]) -> bool:
    try:
        numbers: Any = ids  # array refuses text
        in_order = np.sort(np.frombuffer(array("q", numbers), np.int64))
    except (TypeError, OverflowError):  # text, or too long
        return len(set(ids)) == len(ids)
    # Half the time of a set, whose entries lie scattered in memory.
    return bool((in_order[1:] != in_order[:-1]).all())


def _dangling(
    annotations: list[Annotation], image_ids: set[Id], category_ids: set[Id], source: str
) -> list[Finding]:
    findings = []
    for a in annotations:
        if a.image_id not in image_ids:
            code, what = "image-id-unknown", f"image {a.image_id!r}"
        elif a.category_id not in category_ids:
            code, what = "category-id-unknown", f"category {a.category_id!r}"
        else:
            continue
        message = f"annotation {a.id} is of {what}, which is not in the file"
        findings.append(Finding(code, "warning", source, message, "dropped", annotation=a.id))
    if len(findings) == len(annotations):
        raise RelayError(
            f"source {source}: none of its {len(annotations)} annotations can be used, for example"
            f" {findings[0].message}; check that both ids are numbers, or both are strings."
        )
    return findings
