"""Which images and label files a YOLO dataset has, and what its classes are called.

From a data.yaml (https://docs.ultralytics.com/datasets/detect/): `train`, `val` and `test` name
folders of images or .txt lists of them, below `path`, below the file's own folder, or, for a path
that begins with ../ as Roboflow writes it, without that. The labels of an image are in a .txt file
at the same place with the last folder `images` replaced by `labels`; where there is none, with
another such folder replaced, as `yolo_write` writes it; or beside the image. An image without label
file has no objects.

From a folder of label files: see `yolo_folder`.
"""

from __future__ import annotations

import filecmp
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relaydet.addresses import shown
from relaydet.config import SourceConfig
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import is_dir, is_file, path_of
from relaydet.data.formats.text import is_unicode
from relaydet.data.formats.yolo_folder import (
    ENDINGS,
    Labelled,
    find_in_folder,
    label_files,
    note_alone,
    read_text,
)
from relaydet.data.formats.yolo_yaml import load_yaml, names_of
from relaydet.data.images import Images
from relaydet.errors import RelayError

__all__ = ["Labelled", "find_files", "labels_of"]

ALL = "all"
SPLITS = ("train", "val", "test")


def find_files(
    source: SourceConfig, images: Images, noticed: Noticed
) -> tuple[list[Labelled], dict[int, str]]:
    """The images of a source with their label files, and the names of its classes.

    Raises:
        RelayError: there are no such files, or no such split.
    """
    path = path_of(source)
    if is_dir(path):
        _refuse_split(source)
        found, names = find_in_folder(path, images, noticed)
    elif is_file(path):
        content = load_yaml(path)
        found, names = _from_yaml(path, content, source, noticed), names_of(content, path)
    else:
        raise RelayError(
            f"{shown(source.annotations)[:300]}: does not exist; give the data.yaml of source"
            f" {source.name}, or its folder of label files."
        )
    if not found:
        raise RelayError(
            f"{shown(source.annotations)}: source {source.name} has no labelled images there; give"
            " its data.yaml or its folder of label files, and the folder with its images."
        )
    return found, names


def labels_of(image: Path) -> Path:
    """Ultralytics' rule: the last folder `images` becomes `labels`, the extension .txt."""
    return _label_places(image)[0]


def _label_places(image: Path) -> list[Path]:
    """Where the labels of an image may be, the likeliest first; beside it comes last."""
    parts = image.parts
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    replaced = [Path(*parts[:at], "labels", *parts[at + 1 :]) for at in reversed(places)]
    return [path.parent / f"{path.stem}.txt" for path in (*replaced, image)]


def _label_file(image: Path) -> Path | None:
    """The file with the labels of an image."""
    for path in _label_places(image):
        for choice in (path, path.with_suffix(".TXT"), path.with_suffix(".Txt")):
            if is_file(choice):
                return choice
    return None


def _refuse_split(source: SourceConfig) -> None:
    if source.split != ALL:
        raise RelayError(
            f"source {source.name}: a folder of label files has no split {source.split!r}; give the"
            " data.yaml, or the folder of that split."
        )


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
            of_entry = {image: _label_file(image) for image in _images_of(place)}
            inside = []
            for image, labels in of_entry.items():
                name = _name_within(image, [Path(source.images), *roots])
                if name is None:
                    message = f"{str(image)[-200:]!r} is not below {shown(source.images)}"
                    noticed.add("image-outside", "warning", message, "left out")
                elif name not in found:
                    found[name] = Labelled(name, labels, split)
                    inside.append(image)
            if inside and not any(of_entry[image] for image in inside):
                _note_folder_missing(labels_of(inside[0]).parent, len(inside), noticed)
            if is_dir(place):
                _note_labels_alone(place, of_entry, found, noticed)
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
        if is_dir(choice) or (choice.suffix == ".txt" and is_file(choice)):
            return _normal(choice)
    raise RelayError(
        f"{path}: {split} is {entry[:200]!r}, which is no folder of images and no .txt list of"
        f" them below {roots[0]}; correct the file, or give the folder of label files instead."
    )


def _images_of(place: Path) -> Iterator[Path]:
    """Images in a folder and below, sorted, or in a list, in its order."""
    if place.is_dir():
        yield from sorted(p for p in place.rglob("*") if p.suffix.lower()[1:] in ENDINGS)
        return
    for line in io.StringIO(read_text(place), newline="\n"):
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


def _note_folder_missing(folder: Path, count: int, noticed: Noticed) -> None:
    """Note that not one image has labels, if the folder that they should be in is missing."""
    if not is_dir(folder):
        message = f"{count} images have no labels: {str(folder)[-200:]} does not exist"
        noticed.add("labels-missing", "warning", message, "kept, as images without objects")


def _note_labels_alone(
    place: Path, of_entry: dict[Path, Path | None], found: dict[str, Labelled], noticed: Noticed
) -> None:
    """Note the label files of a folder of images that belong to none of them."""
    folder = labels_of(place / "any.jpg").parent
    paired = {file.labels for file in found.values()}
    used = {path: own for image, own in of_entry.items() for path in _label_places(image)}
    for path in label_files(folder) if is_dir(folder) else ():
        if path not in paired and not _is_copy(path, used.get(path)):
            note_alone(path, noticed)


def _is_copy(path: Path, of: Path | None) -> bool:
    """Whether a file holds just what another does, as `yolo_write` writes some labels twice."""
    try:
        return of is not None and filecmp.cmp(path, of, shallow=False)
    except OSError:
        return False
