"""Checks of image files: whether they are there, open, and are what the annotations say.

Every file is read once, whole; what is kept of it (`FileFacts`) also tells which are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec

from relaydet.bars import OpenBar, no_bar
from relaydet.data.checks.likeness import thumbnail_of
from relaydet.data.checks.summing import sum_up
from relaydet.data.dataset import Dataset, Id, Image
from relaydet.data.findings import Finding
from relaydet.data.images import UPRIGHT, Header, Images, header_of
from relaydet.errors import RelayError

SWAPPED_SIDES = 5  # EXIF orientations from here on exchange width and height
# Images that one task of a thread looks at: handing over a task costs as much as a small image.
BLOCK = 16

_GREY = ("image-grey", "info", "is grey", "read as RGB")
_CMYK = ("image-cmyk", "warning", "has the colours of print (CMYK)", "converted to RGB")
_PALETTE = ("image-palette", "info", "has a palette of colours", "read as RGB")
_ALPHA = ("image-alpha", "info", "has an alpha channel (transparency)", "read as RGB, without it")
# By Pillow's mode: code, severity, what it is, and what is done.
_MODES = {
    "1": _GREY,
    "L": _GREY,
    "LA": _GREY,
    "La": _GREY,
    "I": _GREY,
    "F": _GREY,
    "I;16": _GREY,
    "I;16B": _GREY,
    "I;16L": _GREY,
    "I;16N": _GREY,
    "CMYK": _CMYK,
    "P": _PALETTE,
    "PA": _PALETTE,
    "RGBA": _ALPHA,
    "RGBa": _ALPHA,
}


@dataclass(frozen=True)
class FileFacts:
    """What is kept of one image file."""

    header: Header
    sha256: bytes
    """Digest of the whole file."""
    thumbnail: bytes | None = None
    """A small grey copy (`likeness.thumbnail_of`), where the check was asked for one."""


# What is wrong with a file instead; None where there is no such file.
Look = FileFacts | RelayError | None


@dataclass(frozen=True)
class CheckedImages:
    """A dataset whose images all open, and what the check saw."""

    dataset: Dataset
    findings: list[Finding]
    files: dict[Id, FileFacts]
    """By image id; of every image in the dataset."""


def check_images(
    dataset: Dataset,
    images: Images,
    source: str,
    bar: OpenBar = no_bar,
    threads: int = 4,
    likeness: bool = False,
) -> CheckedImages:
    """Compare the images with their files; drop those without one that opens.

    Where a size differs from the annotations', the file's is taken and the boxes stay: they may be
    drawn on another copy of the image, so it is a warning. An image that viewers turn (EXIF) is a
    warning as well, since it is used as stored. Pixels that are not RGB as stored are told too.

    Args:
        dataset: what was read.
        images: where its images are; files that are far away have been fetched.
        source: its name, for the findings.
        bar: shows how far the check is.
        threads: how many files to read at once.
        likeness: make a thumbnail of each image as well. That decodes it, takes ten times as long,
            and finds broken files that a look at the header does not.

    Raises:
        RelayError: none of the image files exists, or none can be used.
    """
    kept, findings, files = [], [], {}
    with bar(f"checking images of {source}", len(dataset.images), "image") as advance:
        looks = _look_at_all(images, dataset.images, threads, likeness)
        for image, look in zip(dataset.images, looks, strict=True):
            checked, of_image = _check_image(image, look, source)
            findings += of_image
            if checked is not None and isinstance(look, FileFacts):
                kept.append(checked)
                files[image.id] = look
            advance(1)
    missing = sum(finding.code == "image-missing" for finding in findings)
    if missing == len(dataset.images) > 0:
        raise RelayError(
            f"source {source}: none of its {missing} images is in the {images.describe()}, for"
            f" example {dataset.images[0].file_name}; give the folder that the file names start"
            " from."
        )
    annotations = dataset.annotations
    if len(kept) < len(dataset.images):
        annotations = [a for a in annotations if a.image_id in files]
    if not kept:
        raise RelayError(
            f"source {source}: none of its {len(dataset.images)} images can be used; the first:"
            f" {findings[0].message}"
        )
    checked_dataset = replace(dataset, images=kept, annotations=annotations)
    return CheckedImages(checked_dataset, sum_up(findings), files)


def _look_at_all(
    images: Images, records: Sequence[Image], threads: int, likeness: bool
) -> Iterator[Look]:
    """What there is in each image file, in the order of the records."""

    def look_at_block(start: int) -> list[Look]:
        return [_look(images, r.file_name, likeness) for r in records[start : start + BLOCK]]

    with ThreadPoolExecutor(threads) as pool:
        try:
            for block in pool.map(look_at_block, range(0, len(records), BLOCK)):
                yield from block
        finally:  # someone who interrupts the check does not wait for the rest of it
            pool.shutdown(cancel_futures=True)


def _look(images: Images, name: str, likeness: bool) -> Look:
    """What there is in an image file, what is wrong with it, or None if there is no such file."""
    try:
        data = images.read(name)
        header, digest = header_of(data, name), hashlib.sha256(data).digest()
        return FileFacts(header, digest, thumbnail_of(data, name) if likeness else None)
    except RelayError as error:
        return _why(images, name, error)


def _why(images: Images, name: str, error: RelayError) -> RelayError | None:
    """The error, or None where there is no such file: asked last, as nearly every file is there."""
    try:
        return error if images.exists(name) else None
    except RelayError as of_name:
        return of_name


def _check_image(image: Image, look: Look, source: str) -> tuple[Image | None, list[Finding]]:
    """The image with the size of its file, or None if it cannot be used."""
    name = image.file_name

    def found(code: str, message: str, action: str, severity: str = "warning") -> Finding:
        return Finding(code, severity, source, f"{name} {message}", action, name)

    dropped = "dropped, with its annotations"
    if look is None:
        return None, [found("image-missing", "does not exist", dropped)]
    if isinstance(look, RelayError):
        return None, [found("image-unreadable", f"cannot be opened: {look}", dropped)]
    header, findings = look.header, []
    stated, actual = (image.width, image.height), (header.width, header.height)
    if header.orientation != UPRIGHT:
        turned = "is shown turned by viewers (EXIF)"
        if header.orientation >= SWAPPED_SIDES and stated == actual[::-1] != actual:
            turned += ", and its boxes seem drawn on it as shown"
        findings.append(found("image-turned", turned, "used as stored"))
    if header.mode in _MODES:
        code, severity, what, action = _MODES[header.mode]
        findings.append(found(code, what, action, severity))
    if stated == actual:
        return image, findings
    if min(stated) > 0:
        differs = (
            f"has {actual[0]} x {actual[1]} pixels, its annotation says {stated[0]} x {stated[1]}"
        )
        findings.append(found("image-size-differs", differs, "size of the file taken"))
    return msgspec.structs.replace(image, width=header.width, height=header.height), findings
