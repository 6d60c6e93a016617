"""Annotation formats: a module per format, a line per format in `FORMATS`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from relaydet.config import SourceConfig
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.formats import coco, crowdhuman, cuhk_sysu, prw, voc, yolo
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError

Reader = Callable[[SourceConfig], tuple[Dataset, list[Finding]]]

FORMATS: dict[str, Reader] = {
    "coco": coco.read,
    "cuhk_sysu": cuhk_sysu.read,
    "prw": prw.read,
    "crowdhuman": crowdhuman.read,
    "voc": voc.read,
    "yolo": yolo.read,
}

# Stores the bytes of a file under a relative name.
Put = Callable[[str, bytes], None]
Writer = Callable[[Dataset, Put], list[Finding]]

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])

WRITERS: dict[str, Writer] = {
    "voc": voc.write,
    "yolo": yolo.write,
}


def read_source(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read a source in its format.

    Returns:
        The dataset with ids and file names as in the source, and what reading noticed.

    Raises:
        RelayError: the format is unknown, or the files are not in that format.
    """
    if source.format not in FORMATS:
        close = difflib.get_close_matches(source.format.lower(), FORMATS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise RelayError(
            f"source {source.name}: the format {source.format!r} is unknown{hint}; known are"
            f" {', '.join(FORMATS)}."
        )
    return FORMATS[source.format](source)


def check_writable(name: str) -> None:
    """Raise RelayError unless there is a writer of that format."""
    if name not in WRITERS:
        close = difflib.get_close_matches(name.lower(), WRITERS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise RelayError(
            f"FORMATS: the format {name!r} cannot be written{hint}; known are"
            f" {', '.join(WRITERS)}, and COCO is always written."
        )


def write_format(name: str, dataset: Dataset, put: Put) -> list[Finding]:
    """Write a merged dataset in another format than COCO.

    Args:
        name: one of `WRITERS`.
        dataset: file names are "<source>/<path in that source>"; boxes and areas are finite.
        put: stores the bytes of a file under a relative name.

    Returns:
        What the format cannot hold.

    Raises:
        RelayError: the format is unknown, or cannot hold a name of the dataset.
    """
    check_writable(name)
    return WRITERS[name](dataset, put)


def hash_annotations(source: SourceConfig) -> str:
    """SHA-256 (hex) of the annotation file, or of names and hashes of a folder's files.

    Images that lie in the folder as well do not count.

    Raises:
        RelayError: a file cannot be read.
    """
    root = Path(source.annotations)
    try:
        if root.is_file():
            return _sha256(root)
        if not root.is_dir():  # in a zip, or far away
            return hashlib.sha256(read_bytes(source.annotations)).hexdigest()
        files = sorted(
            path
            for path in root.rglob("*")
            if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES
        )
        listing = [f"{path.relative_to(root).as_posix()} {_sha256(path)}\n" for path in files]
    except OSError as error:
        raise RelayError(
            f"{root}: the annotations of source {source.name} cannot be read ({error.strerror});"
            " give the path of the annotation file or folder."
        ) from error
    return hashlib.sha256("".join(listing).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
