"""Annotation formats: a module per format, a line per format in `FORMATS`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from relaydet.config import SourceConfig
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.formats import coco, cuhk_sysu
from relaydet.errors import RelayError

Reader = Callable[[SourceConfig], tuple[Dataset, list[Finding]]]

FORMATS: dict[str, Reader] = {
    "coco": coco.read,
    "cuhk_sysu": cuhk_sysu.read,
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


def hash_annotations(source: SourceConfig) -> str:
    """SHA-256 (hex) of the annotation file, or of the names and hashes of all files in the folder.

    Raises:
        RelayError: a file cannot be read.
    """
    root = Path(source.annotations)
    try:
        if not root.is_dir():
            return _sha256(root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
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
