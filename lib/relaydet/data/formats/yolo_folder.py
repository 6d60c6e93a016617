"""A YOLO dataset given as a folder of label files: which of them are of which image.

Each label file belongs to the image with the same path below `source.images`, but for the
extension. Images without label file are not seen, unless an `images.txt` in the folder or beside it
lists them. Names of the classes: the data.yaml, classes.txt or obj.names in the folder or beside
it; else none. Such a .txt file in the folder itself may also be the labels of an image of that
name: it is, if every line of it is numbers, or, for images.txt, if there is an image images.jpg.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import is_file
from relaydet.data.formats.text import is_unicode, without_suffix
from relaydet.data.formats.yolo_yaml import MAX_BYTES, load_yaml, names_of
from relaydet.data.images import Images
from relaydet.errors import RelayError

YAMLS = ("data.yaml", "data.yml")
NAME_LISTS = ("classes.txt", "obj.names")
IMAGE_LIST = "images.txt"
ENDINGS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff")
EXTENSIONS = tuple(f".{form}" for end in ENDINGS for form in (end, end.upper(), end.capitalize()))
SAMPLE = 20
# A line of a label file, such as "0 0.5 0.5 0.25 0.25".
_LABEL = re.compile(rb"[ \t]*[0-9][0-9.]*([ \t]+[-+0-9.][-+0-9.eE]*){4,}[ \t\r]*")


@dataclass(frozen=True)
class Labelled:
    """An image and where its labels are."""

    name: str
    """Of the image, within `source.images`."""
    labels: Path | None
    """Its label file; None where there is none."""
    split: str = ""
    """train, val or test, where a data.yaml says so."""


def find_in_folder(
    folder: Path, images: Images, noticed: Noticed
) -> tuple[list[Labelled], dict[int, str]]:
    """The images that label files in a folder are of, and the names of the classes.

    Raises:
        RelayError: a list cannot be read.
    """
    names, names_from = _names_beside(folder)
    image_list = _image_list(folder, images)
    listed = dict.fromkeys(_listed_images(image_list) if image_list else ())
    files: dict[str, Path] = {}
    for path in label_files(folder):
        if path not in (names_from, image_list):
            stem = path.relative_to(folder).as_posix()[: -len(path.suffix)]
            if stem in files:  # a.TXT beside a.txt
                note_alone(files[stem], noticed)
            files[stem] = path
    found = [Labelled(name, files.get(without_suffix(name))) for name in listed]
    paired = {file.labels for file in found}
    left = {stem: path for stem, path in files.items() if path not in paired}
    pairs = _pair([stem for stem in left if is_unicode(stem)], images)
    for stem, path in left.items():
        if stem in pairs:
            found.append(Labelled(pairs[stem], path))
        else:
            note_alone(path, noticed)
    return found, names


def label_files(folder: Path) -> list[Path]:
    """The .txt files in a folder and below, sorted."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() == ".txt" and path.is_file()
    )


def note_alone(path: Path, noticed: Noticed) -> None:
    """Note that a label file has no image; a list that nobody needed is not one."""
    if path.name in (*NAME_LISTS, IMAGE_LIST) and not _reads_as_labels(path):
        return
    message = f"the label file {ascii(path.name)[1:-1]} has no image"
    noticed.add("label-without-image", "warning", message, "left out")


def read_text(path: Path) -> str:
    """The text in a UTF-8 file.

    Raises:
        RelayError: it cannot be read, or is something else.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise RelayError(f"{path}: not readable UTF-8 text ({error}); write it again.") from error


def _pair(stems: Sequence[str], images: Images) -> dict[str, str]:
    """Name of the image of each label file that has one, by the label file's path without .txt."""
    pairs: dict[str, str] = {}
    missing = stems
    for extension in _extensions(stems, images):
        images.fetch([stem + extension for stem in missing])
        pairs |= {stem: stem + extension for stem in missing if images.exists(stem + extension)}
        missing = [stem for stem in missing if stem not in pairs]
        if not missing:
            break
    return pairs


def _extensions(stems: Sequence[str], images: Images) -> list[str]:
    """What an image's name may end in, the most frequent first: asking may take a while each."""
    # Most folders have one kind; where that is .jpg, nothing else need be asked for.
    first = EXTENSIONS[0]
    sample = stems[:SAMPLE]
    images.fetch([stem + first for stem in sample])
    rest = [stem for stem in sample if not images.exists(stem + first)]
    images.fetch([stem + extension for stem in rest for extension in EXTENSIONS])
    counts = {end: sum(images.exists(stem + end) for stem in rest) for end in EXTENSIONS}
    counts[first] = len(sample) - len(rest)
    return sorted(EXTENSIONS, key=lambda extension: -counts[extension])


def _image_list(folder: Path, images: Images) -> Path | None:
    """The list of images in the folder or beside it."""
    for place in (folder, folder.absolute().parent):
        path = place / IMAGE_LIST
        is_labels = is_file(path) and (
            _reads_as_labels(path)
            or (place == folder and bool(_pair([without_suffix(IMAGE_LIST)], images)))
        )
        if is_file(path) and not is_labels:
            return path
    return None


def _listed_images(path: Path) -> Iterator[str]:
    for line in io.StringIO(read_text(path), newline="\n"):
        if line.strip():
            yield line.rstrip("\r\n")


def _names_beside(folder: Path) -> tuple[dict[int, str], Path | None]:
    """Names of the classes, and the file that they are from."""
    for place in (folder, folder.absolute().parent):
        for path in (place / name for name in YAMLS):
            if is_file(path):
                return names_of(load_yaml(path), path), path
        for path in (place / name for name in NAME_LISTS):
            if is_file(path) and not _reads_as_labels(path):
                return _names_in(path), path
    return {}, None


def _names_in(path: Path) -> dict[int, str]:
    if path.stat().st_size > MAX_BYTES:
        raise RelayError(f"{path}: too large for a list of classes; write one name a line.")
    lines = [line.strip() for line in read_text(path).split("\n")]
    return {number: line for number, line in enumerate(lines) if line}


def _reads_as_labels(path: Path) -> bool:
    """Whether every line of a file that is not blank has a class and four numbers or more."""
    try:
        with path.open("rb") as file:
            start = file.read(MAX_BYTES).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return False
    lines = [line for line in start.splitlines() if line.strip()]
    return all(_LABEL.fullmatch(line) for line in lines[:SAMPLE])
