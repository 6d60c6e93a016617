"""Which images and label files a YOLO dataset has, and what its classes are called.

From a data.yaml (https://docs.ultralytics.com/datasets/detect/): `train`, `val` and `test` name
folders of images or .txt lists of them, below `path`, below the file's own folder, or, for a path
that begins with ../ as Roboflow writes it, without that. The labels of an image are in a .txt file
at the same place with the last folder `images` replaced by `labels`, or beside the image. An image
without label file has no objects.

From a folder of label files: each belongs to the image with the same path below `source.images`,
but for the extension. Images without label file are not seen, unless an `images.txt` in the folder
or beside it lists them. Names of the classes: the data.yaml, classes.txt or obj.names in the folder
or beside it; else none.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaydet.config import SourceConfig
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.text import is_unicode, without_suffix
from relaydet.data.formats.yolo_yaml import load_yaml, names_of
from relaydet.data.images import Images
from relaydet.errors import RelayError

ALL = "all"
SPLITS = ("train", "val", "test")
YAMLS = ("data.yaml", "data.yml")
NAME_LISTS = ("classes.txt", "obj.names")
IMAGE_LIST = "images.txt"
_ENDINGS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff")
EXTENSIONS = tuple(f".{form}" for end in _ENDINGS for form in (end, end.upper(), end.capitalize()))


@dataclass(frozen=True)
class Labelled:
    """An image and where its labels are."""

    name: str
    """Of the image, within `source.images`."""
    labels: Path | None
    """Its label file; None where there is none."""
    split: str = ""
    """train, val or test, where a data.yaml says so."""


def find_files(
    source: SourceConfig, images: Images, noticed: Noticed
) -> tuple[list[Labelled], dict[int, str]]:
    """The images of a source with their label files, and the names of its classes.

    Raises:
        RelayError: there are no such files, or no such split.
    """
    path = Path(source.annotations)
    if path.is_dir():
        found, names = _from_folder(path, source, images, noticed), _names_beside(path)
    elif path.is_file():
        content = load_yaml(path)
        found, names = _from_yaml(path, content, source, noticed), names_of(content, path)
    else:
        raise RelayError(
            f"{source.annotations}: does not exist; give the data.yaml of source {source.name}, or"
            " its folder of label files."
        )
    if not found:
        raise RelayError(
            f"{source.annotations}: source {source.name} has no labelled images there; give its"
            " data.yaml or its folder of label files, and the folder with its images."
        )
    return found, names


def labels_of(image: Path) -> Path:
    """Ultralytics' rule: the last folder `images` becomes `labels`, the extension .txt."""
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images" and place > 0]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _from_folder(
    folder: Path, source: SourceConfig, images: Images, noticed: Noticed
) -> list[Labelled]:
    if source.split != ALL:
        raise RelayError(
            f"source {source.name}: a folder of label files has no split {source.split!r}; give the"
            " data.yaml, or the folder of that split."
        )
    files = {path.relative_to(folder).as_posix()[:-4]: path for path in _label_files(folder)}
    listed = dict.fromkeys(_listed_images(folder))
    found = [Labelled(name, files.get(without_suffix(name))) for name in listed]
    paired = {file.labels for file in found}
    extensions = list(EXTENSIONS)
    for stem, path in files.items():
        if path in paired:
            continue
        fits = (end for end in extensions if is_unicode(stem) and images.exists(stem + end))
        extension = next(fits, None)
        if extension is None:
            _note_alone(path, noticed)
            continue
        found.append(Labelled(stem + extension, path))
        if extension != extensions[0]:  # most folders have one kind: ask for that one first
            extensions.remove(extension)
            extensions.insert(0, extension)
    return found


def _from_yaml(
    path: Path, content: dict[str, Any], source: SourceConfig, noticed: Noticed
) -> list[Labelled]:
    there = [split for split in SPLITS if content.get(split)]
    if source.split not in (ALL, *there):
        raise RelayError(
            f"source {source.name}: {path} has no split {source.split!r}; choose"
            f" {', '.join((ALL, *there))}."
        )
    found: dict[str, Labelled] = {}
    roots = _roots(path, content)
    for split in there if source.split == ALL else [source.split]:
        entries = content[split]
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _resolve(str(entry), roots, path, split)
            for image in _images_of(place):
                name = _name_within(image, [Path(source.images), *roots])
                if name is None:
                    message = f"{str(image)[-200:]!r} is not below {source.images}"
                    noticed.add("image-outside", "warning", message, "left out")
                elif name not in found:
                    labels = labels_of(image)
                    found[name] = Labelled(name, labels if _is_file(labels) else None, split)
            if place.is_dir():
                _note_labels_alone(place, found, noticed)
    return list(found.values())


def _roots(path: Path, content: dict[str, Any]) -> list[Path]:
    """Folders that the paths in a data.yaml may start from."""
    own = _normal(path.parent)
    stated = content.get("path")
    return [_normal(own / stated), own] if isinstance(stated, str) and stated else [own]


def _resolve(entry: str, roots: list[Path], path: Path, split: str) -> Path:
    choices = [root / entry for root in roots]
    if entry.startswith("../"):
        choices += [root / entry[3:] for root in roots]
    for choice in choices:
        if _is_there(choice):
            return _normal(choice)
    raise RelayError(
        f"{path}: {split} is {entry[:200]!r}, which is no folder of images and no .txt list of"
        f" them below {roots[0]}; correct the file, or give the folder of label files instead."
    )


def _is_there(path: Path) -> bool:
    try:
        return path.is_dir() or (path.suffix == ".txt" and path.is_file())
    except (OSError, ValueError):  # a name that the file system cannot even hold
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the file system cannot even hold
        return False


def _images_of(place: Path) -> Iterator[Path]:
    """Images in a folder and below, sorted, or in a list, in its order."""
    if place.is_dir():
        yield from sorted(p for p in place.rglob("*") if p.suffix.lower()[1:] in _ENDINGS)
        return
    for line in io.StringIO(_read_text(place), newline="\n"):
        if name := line.strip().replace("\0", ""):
            yield _normal(place.parent / name)


def _name_within(image: Path, folders: list[Path]) -> str | None:
    """Path of an image relative to the first folder that holds it."""
    for folder in folders:
        try:
            name = image.relative_to(_normal(folder)).as_posix()
        except ValueError:
            continue
        if is_unicode(name) and name != ".":
            return name
    return None


def _normal(path: Path) -> Path:
    """An absolute path without '..'; links stay, for a folder of links is a usual dataset."""
    return Path(os.path.normpath(path.absolute()))


def _label_files(folder: Path) -> list[Path]:
    other = {*NAME_LISTS, IMAGE_LIST}
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix == ".txt" and path.name not in other and path.is_file()
    )


def _note_labels_alone(place: Path, found: dict[str, Labelled], noticed: Noticed) -> None:
    """Note the label files of a folder of images that belong to none of them."""
    folder = labels_of(place / "any.jpg").parent
    paired = {file.labels for file in found.values()}
    for path in _label_files(folder) if folder.is_dir() else ():
        if path not in paired:
            _note_alone(path, noticed)


def _note_alone(path: Path, noticed: Noticed) -> None:
    message = f"the label file {ascii(path.name)[1:-1]} has no image"
    noticed.add("label-without-image", "warning", message, "left out")


def _listed_images(folder: Path) -> Iterator[str]:
    for place in (folder, folder.absolute().parent):
        if (place / IMAGE_LIST).is_file():
            for line in io.StringIO(_read_text(place / IMAGE_LIST), newline="\n"):
                if line.strip():
                    yield line.rstrip("\r\n")
            return


def _names_beside(folder: Path) -> dict[int, str]:
    for place in (folder, folder.absolute().parent):
        for name in YAMLS:
            if (place / name).is_file():
                return names_of(load_yaml(place / name), place / name)
        for name in NAME_LISTS:
            if (place / name).is_file():
                lines = [line.strip() for line in _read_text(place / name).split("\n")]
                return {number: line for number, line in enumerate(lines) if line}
    return {}


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise RelayError(f"{path}: not readable UTF-8 text ({error}); write it again.") from error
