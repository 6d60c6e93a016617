"""CUHK-SYSU person search annotations: a folder of MATLAB files.

Source of the format: http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html (Xiao et al., CVPR 2017);
18,184 images. The folder `annotation`, which `SourceConfig.annotations` names, holds:

    Images.mat  Img     1xN struct (imname, nAppear, box); box is a 1xM struct (idlocate, ishard):
                        every person in every image
    pool.mat    pool    cells, each a cell with an image name: the test images; train is the rest
    Person.mat  Person  1xP struct (idname, nAppear, scene): the labelled identities
    test/train_test/Train.mat     Train     cells of 1x1 structs like Person's
    test/train_test/TestG<n>.mat  TestG<n>  1xQ struct (Query, Gallery): the search protocol
    scene and Gallery are structs (imname, idlocate, ishard); Query has idname as well.

`idlocate` is [x, y, w, h] in pixels. MATLAB stores it as uint8 where all four fit and as uint16
otherwise, in which x + w silently wraps: boxes become float64 before any arithmetic. An empty slot
of a gallery is an array of no elements.

MATLAB counts pixels from 1, and the smallest x and y in the real files are 1, so `source.offset`
(1 by default) is subtracted from x and y. No published loader does that; set offset to 0 to agree
with them. The box as stored is kept in the extra field `raw_bbox`.

Extra fields: annotations have `hard` (0 or 1; a difficult sample, which is not `iscrowd`), `pid`
(the number in the identity's name, -1 where the person is not labelled) and `raw_bbox`; images have
`split` (train or test). The files hold no image sizes: they are read from the images
later on (`checks.files`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image, gc_paused, set_extra
from relaydet.data.findings import Finding
from relaydet.errors import RelayError

PERSON = 1
UNLABELLED = -1
SPLITS = ("all", "train", "test")

# An image name and the raw box in it: what the files agree on about one person.
Place = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class TestBoxes:
    """Queries and filled gallery slots of a TestG file, in file order."""

    images: list[str]
    """Image name of each box."""
    boxes: np.ndarray
    """float64 [N, 4]: x, y, width, height in pixels as stored, without an offset subtracted."""
    is_query: np.ndarray
    """bool [N]: the box is a query."""
    is_hard: np.ndarray
    """bool [N]: marked as a difficult sample."""
    empty_slots: int
    """Gallery slots without a box: images in which the person does not appear."""

    __test__ = False  # for pytest: not a test class


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read the annotation folder `source.annotations`, of the parts that `source.split` names.

    Returns:
        The dataset, images numbered from 1 in file order, and what reading noticed. Images have
        width and height 0, until `checks.files.check_images` reads them from the image files.

    Raises:
        RelayError: a file is missing, truncated, or without its variable; the split is unknown.
    """
    if source.split not in SPLITS:
        raise RelayError(
            f"source {source.name}: the split is {source.split!r}; it must be one of"
            f" {', '.join(SPLITS)}."
        )
    folder = Path(source.annotations)
    rows = _rows(folder / "Images.mat", "Img", ("imname", "box"))
    test_names = {_text(cell) for cell in _cells(folder / "pool.mat", "pool")}
    identities, findings = _read_identities(folder, source.name)
    dataset = Dataset([], [], [Category(PERSON, "person")])
    with gc_paused():
        for row in rows:
            name = _text(row["imname"])
            split = "test" if name in test_names else "train"
            if source.split in ("all", split):
                image = Image(len(dataset.images) + 1, name, 0, 0)
                set_extra(image, split=split)
                dataset.images.append(image)
                _read_boxes(row["box"], image, source, identities, dataset.annotations, findings)
    absent = test_names - {_text(row["imname"]) for row in rows}
    if absent:
        message = f"{len(absent)} test images of pool.mat are not in Images.mat, as {min(absent)}"
        findings.append(Finding("image-unlisted", "warning", source.name, message, "left out"))
    return dataset, findings


def read_test(path: Path) -> TestBoxes:
    """Read the search protocol of a TestG file; the gallery may have any size.

    Args:
        path: the file, which holds one struct named like it, or one named TestG...

    Raises:
        RelayError: the file is missing, truncated, or has no such variable.
    """
    rows = _rows(path, _test_variable(path), ("Query", "Gallery"))
    slots = [(True, query) for row in rows for query in row["Query"].flat]
    slots += [(False, slot) for row in rows for slot in row["Gallery"].flat]
    filled = [(is_query, slot) for is_query, slot in slots if slot["idlocate"].size]
    boxes = [_box(slot["idlocate"]) for _, slot in filled]
    if any(box is None for box in boxes):
        raise RelayError(f"{path}: a box is not four numbers; download the file again.")
    return TestBoxes(
        images=[_text(slot["imname"]) for _, slot in filled],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        is_query=np.array([is_query for is_query, _ in filled], dtype=bool),
        is_hard=np.array([_flag(slot["ishard"]) for _, slot in filled], dtype=bool),
        empty_slots=len(slots) - len(filled),
    )


def read_test_boxes(path: Path) -> dict[str, np.ndarray]:
    """Boxes of a TestG file by image name.

    Returns:
        float64 [N, 4] per image: x, y, width, height as stored, of queries and gallery slots;
        a person in several galleries is there several times.

    Raises:
        RelayError: the file is missing, truncated, or has no TestG variable.
    """
    test = read_test(path)
    places: dict[str, list[int]] = {}
    for index, name in enumerate(test.images):
        places.setdefault(name, []).append(index)
    return {name: test.boxes[indices] for name, indices in places.items()}


def _read_boxes(
    boxes: np.ndarray,
    image: Image,
    source: SourceConfig,
    identities: dict[Place, int],
    annotations: list[Annotation],
    findings: list[Finding],
) -> None:
    """Append the boxes of one image to `annotations`; those that are none, to `findings`."""
    for place, row in enumerate(boxes.flat):
        raw = _box(row["idlocate"])
        if raw is None or not (raw[2] > 0 and raw[3] > 0):
            what = "not four numbers" if raw is None else f"{raw[2]:g} x {raw[3]:g} pixels"
            message = f"box {place} (counted from 0) of {image.file_name} is {what}"
            findings.append(
                Finding("box-empty", "warning", source.name, message, "dropped", image.file_name)
            )
            continue
        x, y, width, height = raw
        annotation = Annotation(
            id=len(annotations) + 1,
            image_id=image.id,
            category_id=PERSON,
            bbox=(x - source.offset, y - source.offset, width, height),
            area=width * height,
        )
        pid = identities.get((image.file_name, raw), UNLABELLED)
        # As stored: whole numbers of MATLAB's integer types stay whole.
        stored = row["idlocate"].ravel().tolist()
        set_extra(annotation, hard=int(_flag(row["ishard"])), pid=pid, raw_bbox=stored)
        annotations.append(annotation)


def _read_identities(folder: Path, source: str) -> tuple[dict[Place, int], list[Finding]]:
    """Identity number of each labelled box, from Train.mat and Person.mat as far as they exist."""
    identities: dict[Place, int] = {}
    findings = []
    files = {"Train": folder / "test" / "train_test" / "Train.mat", "Person": folder / "Person.mat"}
    for variable, path in files.items():
        if not path.is_file():
            message = f"{path} does not exist; persons that only it labels have pid -1"
            findings.append(Finding("identities-missing", "info", source, message, "kept"))
            continue
        nameless = clashes = 0
        for person in _rows(path, variable, ("idname", "scene")):
            number = re.search(r"\d+$", _text(person["idname"]))
            if number is None:
                nameless += 1
                continue
            for place in _places(person["scene"]):
                clashes += identities.setdefault(place, int(number[0])) != int(number[0])
        if nameless or clashes:
            message = (
                f"{path}: {nameless} identities whose name does not end in a number, {clashes}"
                " boxes with a second identity"
            )
            findings.append(Finding("identity-unclear", "warning", source, message, "not used"))
    return identities, findings


def _places(scene: np.ndarray) -> Iterator[Place]:
    for row in scene.flat:
        box = _box(row["idlocate"])
        if box is not None:
            yield _text(row["imname"]), box


def _rows(path: Path, variable: str, fields: tuple[str, ...]) -> list[np.void]:
    """Elements of a struct array, whether stored as one or as cells of 1x1 structs."""
    rows = [
        cell.flat[0] if isinstance(cell, np.ndarray) else cell for cell in _cells(path, variable)
    ]
    names = set(rows[0].dtype.names or ()) if rows and isinstance(rows[0], np.void) else set()
    if rows and not names.issuperset(fields):
        raise RelayError(
            f"{path}: {variable} should be a struct with the fields {', '.join(fields)}, but has"
            f" {', '.join(sorted(names)) or 'none'}; give the annotation files of CUHK-SYSU."
        )
    return rows


def _cells(path: Path, variable: str) -> list[Any]:
    values = _load(path)
    if variable not in values:
        raise RelayError(
            f"{path}: has no variable {variable} but {', '.join(values) or 'none at all'}; give the"
            " annotation files of CUHK-SYSU."
        )
    return list(values[variable].flat)


def _load(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat  # here: it takes longer to import than a COCO file to read

    if not path.is_file():
        raise RelayError(
            f"{path}: does not exist; give CUHK-SYSU's folder `annotation`, with Images.mat and"
            " pool.mat in it."
        )
    try:
        values = loadmat(path)
    except NotImplementedError as error:
        raise RelayError(
            f"{path}: saved in MATLAB's version 7.3, which is not read; save it with -v7."
        ) from error
    except Exception as error:  # scipy raises whatever a broken file provokes
        raise RelayError(
            f"{path}: not a readable .mat file ({error}); it may be truncated, copy it again."
        ) from error
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _test_variable(path: Path) -> str:
    from scipy.io import whosmat

    if not path.is_file():
        raise RelayError(f"{path}: does not exist; give a TestG file of CUHK-SYSU.")
    try:
        names = [name for name, _, _ in whosmat(path)]
    except Exception as error:  # scipy raises whatever a broken file provokes
        raise RelayError(
            f"{path}: not a readable .mat file ({error}); it may be truncated, copy it again."
        ) from error
    tests = [name for name in names if name.startswith("TestG")]
    return tests[0] if len(tests) == 1 and path.stem not in names else path.stem


def _box(value: np.ndarray) -> tuple[float, ...] | None:
    """Four float64 numbers, or None if there are not four; never in MATLAB's narrow integers."""
    numeric = value.size == 4 and np.issubdtype(value.dtype, np.number)
    return tuple(value.astype(np.float64).ravel().tolist()) if numeric else None


def _flag(value: np.ndarray) -> bool:
    return bool(value.size and value.flat[0])


def _text(value: Any) -> str:
    """The text in any number of nested cells."""
    while isinstance(value, np.ndarray) and value.size:
        value = value.flat[0]
    return str(value) if isinstance(value, str) else ""
