"""Checks that leave a dataset in which every record can be used, and say what they changed.

Each check takes a dataset and gives back a new one with its findings; records that need no change
are shared between the two, and no record is altered in place. `check_source` runs them in the order
that they need: image sizes must be right before boxes are measured against them.

Shape suffixes: N boxes, 4 coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from relaydet.data.dataset import (
    Annotation,
    Category,
    Dataset,
    Id,
    Image,
    gc_paused,
    set_extra,
)
from relaydet.data.findings import Finding
from relaydet.data.images import UPRIGHT, Header, ImageFolder
from relaydet.errors import RelayError

RecordType = TypeVar("RecordType", Image, Category)
Progress = Callable[[Sequence[Image]], Iterable[Image]]

RAW_BBOX = "raw_bbox"
SWAPPED_SIDES = 5  # EXIF orientations from here on exchange width and height
# Boxes that reach out of the image by less are only rounded: x + width in binary floating point.
TOLERANCE = 1e-6


def check_source(
    dataset: Dataset,
    source: str,
    images: ImageFolder | None = None,
    progress: Progress = iter,
    threads: int = 8,
) -> tuple[Dataset, list[Finding]]:
    """All checks of one source, in the order that they need.

    Args:
        dataset: what was read, with ids as in the source.
        source: its name, for the findings.
        images: where its images are; None leaves the image files unchecked.
        progress: wraps the list of images, to show how far their check is.
        threads: how many image headers to read at once.

    Raises:
        RelayError: nothing usable is left, or none of the image files exists.
    """
    dataset, findings = check_structure(dataset, source)
    if images is not None:
        dataset, of_images = check_images(dataset, images, source, progress, threads)
        findings += of_images
    dataset, of_boxes = check_boxes(dataset, source)
    return dataset, findings + of_boxes


def check_structure(dataset: Dataset, source: str) -> tuple[Dataset, list[Finding]]:
    """Drop repeated records, and annotations of an image or category that there is not.

    An image or category id that stands for two things keeps the first. An annotation whose id is
    taken is only dropped if it repeats that annotation entirely: no other record refers to
    annotation ids, and a merge gives every one its own.

    Raises:
        RelayError: there is no image, or no annotation belongs to any image.
    """
    _refuse_empty(dataset, source)
    with gc_paused():
        images, findings = _drop_taken_ids(dataset.images, source, lambda i: i.file_name)
        categories, of_categories = _drop_taken_ids(dataset.categories, source, lambda c: c.name)
        annotations, of_repeats = _drop_repeated(dataset.annotations, source)
        findings += of_categories + of_repeats
        image_ids = {image.id for image in images}
        category_ids = {category.id for category in categories}
        sound = [
            a for a in annotations if a.image_id in image_ids and a.category_id in category_ids
        ]
        if len(sound) < len(annotations):
            findings += _dangling(annotations, image_ids, category_ids, source)
    return replace(dataset, images=images, annotations=sound, categories=categories), findings


def check_boxes(dataset: Dataset, source: str) -> tuple[Dataset, list[Finding]]:
    """Drop boxes without a size, and clamp those that reach out of their image.

    The box as it was is kept in the extra field `raw_bbox`, unless the source has one already;
    `area` stays as it is. Images of unknown size (width or height 0) clamp nothing on that side.
    """
    boxes_N4 = dataset.boxes_N4()
    limits_N2 = _image_limits(dataset)
    # A box may be too large for a sum in float64; it is no box, and no reason for a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        corners_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
        usable_N = np.isfinite(boxes_N4).all(axis=1) & np.isfinite(corners_N2).all(axis=1)
        usable_N &= (boxes_N4[:, 2:] > 0).all(axis=1)
        outside_N = (boxes_N4[:, :2] < 0).any(axis=1)
        outside_N |= (corners_N2 > limits_N2 + TOLERANCE).any(axis=1)
    names = {image.id: image.file_name for image in dataset.images}
    changed: dict[int, Annotation | None] = {}
    findings = []
    for index in np.flatnonzero(~usable_N | outside_N).tolist():
        annotation = dataset.annotations[index]
        clamped = _clamp(annotation, limits_N2[index]) if usable_N[index] else None
        changed[index] = clamped
        code = "box-clamped" if clamped else "box-outside" if usable_N[index] else "box-empty"
        name = names.get(annotation.image_id)
        findings.append(
            Finding(
                code,
                "warning",
                source,
                f"{name}: box {list(annotation.bbox)} {_BOX_PROBLEMS[code]}",
                "clamped" if clamped else "dropped",
                name,
                annotation.id,
            )
        )
    annotations = dataset.annotations
    if changed:
        every = (changed.get(index, a) for index, a in enumerate(annotations))
        annotations = [annotation for annotation in every if annotation is not None]
    return replace(dataset, annotations=annotations), findings


def check_images(
    dataset: Dataset,
    images: ImageFolder,
    source: str,
    progress: Progress = iter,
    threads: int = 8,
) -> tuple[Dataset, list[Finding]]:
    """Compare the images with their files; drop those without one that opens.

    Only headers are read. Where a size differs from the annotations', the file's is taken and the
    boxes stay: they may be drawn on another copy of the image, so it is a warning. An image that
    viewers turn (EXIF) is a warning as well, since it is used as stored.

    Args:
        dataset: what was read.
        images: where its images are.
        source: its name, for the findings.
        progress: wraps the list of images, to show how far the check is.
        threads: how many headers to read at once.

    Raises:
        RelayError: none of the image files exists, or none can be used.
    """
    kept, findings = [], []
    with ThreadPoolExecutor(threads) as pool:
        headers = pool.map(lambda image: _look(images, image.file_name), dataset.images)
        for image, header in zip(progress(dataset.images), headers, strict=True):
            checked, of_image = _check_image(image, header, source)
            findings += of_image
            if checked is not None:
                kept.append(checked)
    missing = sum(finding.code == "image-missing" for finding in findings)
    if missing == len(dataset.images) > 0:
        raise RelayError(
            f"source {source}: none of its {missing} images is in the {images.describe()}, for"
            f" example {dataset.images[0].file_name}; give the folder that the file names start"
            " from."
        )
    annotations = dataset.annotations
    if len(kept) < len(dataset.images):
        ids = {image.id for image in kept}
        annotations = [a for a in annotations if a.image_id in ids]
    checked_dataset = replace(dataset, images=kept, annotations=annotations)
    _refuse_empty(checked_dataset, source)
    return checked_dataset, findings


_BOX_PROBLEMS = {
    "box-clamped": "reaches out of the image",
    "box-outside": "lies outside the image",
    "box-empty": "has no width or height, or is not finite",
}


def _refuse_empty(dataset: Dataset, source: str) -> None:
    if not dataset.images:
        raise RelayError(
            f"source {source}: no image is left; check its annotations, its split and its images."
        )


def _drop_taken_ids(
    records: list[RecordType], source: str, name_of: Callable[[RecordType], str]
) -> tuple[list[RecordType], list[Finding]]:
    """Keep the first record of every id."""
    if len({record.id for record in records}) == len(records):
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
    annotations: list[Annotation], source: str
) -> tuple[list[Annotation], list[Finding]]:
    if len({annotation.id for annotation in annotations}) == len(annotations):
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


def _image_limits(dataset: Dataset) -> np.ndarray:
    """Width and height of the image of every annotation, infinite where unknown; float64 [N, 2]."""
    sides = np.array(
        [[i.width for i in dataset.images], [i.height for i in dataset.images]], dtype=np.float64
    )
    sides[sides <= 0] = np.inf
    row_of = {image.id: row for row, image in enumerate(dataset.images)}
    ids = [annotation.image_id for annotation in dataset.annotations]
    rows_N = np.fromiter(map(row_of.__getitem__, ids), np.intp, len(ids))
    return sides.T[rows_N]


def _clamp(annotation: Annotation, limits_2: np.ndarray) -> Annotation | None:
    """The part of the box inside the image, or None if there is none."""
    x, y, width, height = annotation.bbox
    left, new_width = _clamp_side(x, width, float(limits_2[0]))
    top, new_height = _clamp_side(y, height, float(limits_2[1]))
    if new_width <= 0 or new_height <= 0:
        return None
    clamped = msgspec.structs.replace(annotation, bbox=(left, top, new_width, new_height))
    if clamped.extra is UNSET or RAW_BBOX not in clamped.extra:
        set_extra(clamped, raw_bbox=annotation.bbox)
    return clamped


def _clamp_side(start: float, length: float, limit: float) -> tuple[float, float]:
    if start >= 0 and start + length <= limit + TOLERANCE:
        return start, length  # as it is: subtracting again would only round it
    end, start = min(start + length, limit), max(start, 0.0)
    return start, end - start


def _look(images: ImageFolder, name: str) -> Header | RelayError | None:
    """The header of an image file, what is wrong with it, or None if there is no such file."""
    try:
        return images.header(name) if images.exists(name) else None
    except RelayError as error:
        return error


def _check_image(
    image: Image, header: Header | RelayError | None, source: str
) -> tuple[Image | None, list[Finding]]:
    """The image with the size of its file, or None if it cannot be used."""
    name = image.file_name

    def found(code: str, message: str, action: str) -> Finding:
        return Finding(code, "warning", source, f"{name} {message}", action, name)

    dropped = "dropped, with its annotations"
    if header is None:
        return None, [found("image-missing", "does not exist", dropped)]
    if isinstance(header, RelayError):
        return None, [found("image-unreadable", f"cannot be opened: {header}", dropped)]
    findings = []
    stated, actual = (image.width, image.height), (header.width, header.height)
    if header.orientation != UPRIGHT:
        turned = "is shown turned by viewers (EXIF)"
        if header.orientation >= SWAPPED_SIDES and stated == actual[::-1] != actual:
            turned += ", and its boxes seem drawn on it as shown"
        findings.append(found("image-turned", turned, "used as stored"))
    if stated == actual:
        return image, findings
    if min(stated) > 0:
        differs = (
            f"has {actual[0]} x {actual[1]} pixels, its annotation says {stated[0]} x {stated[1]}"
        )
        findings.append(found("image-size-differs", differs, "size of the file taken"))
    return msgspec.structs.replace(image, width=header.width, height=header.height), findings
