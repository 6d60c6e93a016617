"""Checks of image files: whether they are there, open, and are what the annotations say.

Every file is read once, whole; what is kept of it (`FileFacts`) also tells which are the same.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec

from relaydet.bars import OpenBar, no_bar
from relaydet.data.checks.structure import refuse_empty
from relaydet.data.dataset import Dataset, Id, Image
from relaydet.data.findings import Finding
from relaydet.data.images import UPRIGHT, Header, Images, header_of
from relaydet.errors import RelayError

SWAPPED_SIDES = 5  # EXIF orientations from here on exchange width and height


@dataclass(frozen=True)
class FileFacts:
    """What is kept of one image file."""

    header: Header
    sha256: bytes
    """Digest of the whole file."""


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
    threads: int = 8,
) -> CheckedImages:
    """Compare the images with their files; drop those without one that opens.

    Where a size differs from the annotations', the file's is taken and the boxes stay: they may be
    drawn on another copy of the image, so it is a warning. An image that viewers turn (EXIF) is a
    warning as well, since it is used as stored.

    Args:
        dataset: what was read.
        images: where its images are; files that are far away have been fetched.
        source: its name, for the findings.
        bar: shows how far the check is.
        threads: how many files to read at once.

    Raises:
        RelayError: none of the image files exists, or none can be used.
    """
    kept, findings, files = [], [], {}
    with (
        ThreadPoolExecutor(threads) as pool,
        bar(f"checking images of {source}", len(dataset.images), "image") as advance,
    ):
        looks = pool.map(lambda image: _look(images, image.file_name), dataset.images)
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
    checked_dataset = replace(dataset, images=kept, annotations=annotations)
    refuse_empty(checked_dataset, source)
    return CheckedImages(checked_dataset, findings, files)


def _look(images: Images, name: str) -> FileFacts | RelayError | None:
    """What there is in an image file, what is wrong with it, or None if there is no such file."""
    try:
        if not images.exists(name):
            return None
        data = images.read(name)
        return FileFacts(header_of(data, name), hashlib.sha256(data).digest())
    except RelayError as error:
        return error


def _check_image(
    image: Image, look: FileFacts | RelayError | None, source: str
) -> tuple[Image | None, list[Finding]]:
    """The image with the size of its file, or None if it cannot be used."""
    name = image.file_name

    def found(code: str, message: str, action: str) -> Finding:
        return Finding(code, "warning", source, f"{name} {message}", action, name)

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
    if stated == actual:
        return image, findings
    if min(stated) > 0:
        differs = (
            f"has {actual[0]} x {actual[1]} pixels, its annotation says {stated[0]} x {stated[1]}"
        )
        findings.append(found("image-size-differs", differs, "size of the file taken"))
    return msgspec.structs.replace(image, width=header.width, height=header.height), findings
