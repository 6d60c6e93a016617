"""CUHK-SYSU person search annotations: a folder of MATLAB files.

Source of the format: http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html (Xiao et al., CVPR 2017);
18,184 images. The folder `annotation`, which `SourceConfig.annotations` names, holds:

    Images.mat  Img     1xN struct (imname, nAppear, box); box is a 1xM struct (idlocate, ishard):
                        every person in every image
    pool.mat    pool    cells, each a cell with an image name: the test images; train is the rest
                        (where there is no such file, only the split "all" can be read)
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
`split` (train or test), unless there is no pool.mat. The files hold no image sizes: they are read
from the images later on (`checks.files`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image, gc_paused, set_extra
from relaydet.data.findings import Finding
from relaydet.data.formats.matlab import Value, is_empty, load, pick, rows, texts
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import is_file, path_of
from relaydet.errors import RelayError

PERSON = 1
UNLABELLED = -1
SPLITS = ("all", "train", "test")
HINT = "give CUHK-SYSU's folder `annotation`, with Images.mat and pool.mat in it"
TEST_HINT = "give a TestG file of CUHK-SYSU"

# Of no more digits than every JSON reader keeps.
_PID = re.compile(r"(?<![0-9])[0-9]{1,15}$")

# An image name and the raw box in it: what the files agree on about one person.
Place = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class TestBoxes:
    """Queries of a TestG file, then its filled gallery slots, each in file order."""

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
    folder = path_of(source)
    path = folder / "Images.mat"
    images = _rows(path, "Img", ("imname", "box"))
    noticed = Noticed(source.name)
    test_names = _read_pool(folder / "pool.mat", source.split, noticed)
    identities = _read_identities(folder, noticed)
    dataset = Dataset([], [], [Category(PERSON, "person")])
    with gc_paused():
        for name, boxes in ((_text(name), boxes) for name, boxes in images):
            split = "test" if test_names and name in test_names else "train"
            if source.split in ("all", split):
                image = Image(len(dataset.images) + 1, name, 0, 0)
                if test_names is not None:
                    set_extra(image, split=split)
                dataset.images.append(image)
                persons = rows(boxes, ("idlocate", "ishard"), f"{path}: box of {name}", HINT)
                _read_boxes(persons, image, source, identities, dataset.annotations, noticed)
    absent = (test_names or set()) - {_text(name) for name, _ in images}
    if absent:
        message = f"{len(absent)} test images of pool.mat are not in Images.mat, as {min(absent)}"
        noticed.add("image-unlisted", "warning", message, "left out")
    return dataset, noticed.findings()


def read_test(path: Path) -> TestBoxes:
    """Read the search protocol of a TestG file; the gallery may have any size.

    Args:
        path: the file, which holds one struct named like it, or one named TestG...

    Raises:
        RelayError: the file is missing, truncated, or has no such variable.
    """
    variable, value = _test_variable(path)
    where, fields = f"{path}: {variable}", ("imname", "idlocate", "ishard")
    tests = rows(value, ("Query", "Gallery"), where, TEST_HINT)
    queries, gallery = (
        [slot for test in tests for slot in rows(test[column], fields, where, TEST_HINT)]
        for column in (0, 1)
    )
    slots = [(True, query) for query in queries] + [(False, slot) for slot in gallery]
    filled = [(is_query, slot) for is_query, slot in slots if not is_empty(slot[1])]
    boxes = [_box(box) for _, (_, box, _) in filled]
    if any(box is None for box in boxes):
        raise RelayError(f"{path}: a box is not four numbers; download the file again.")
    return TestBoxes(
        images=[_text(name) for _, (name, _, _) in filled],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        is_query=np.array([is_query for is_query, _ in filled], dtype=bool),
        is_hard=np.array([_flag(hard) for _, (_, _, hard) in filled], dtype=bool),
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


def _read_pool(path: Path, split: str, noticed: Noticed) -> set[str] | None:
    """Names of the test images; None where they are not known and need not be."""
    if split == "all" and not is_file(path):
        message = f"{path} does not exist; which images are for testing is not known"
        noticed.add("split-unknown", "info", message, "kept, without split")
        return None
    return set(texts(pick(load(path, HINT), "pool", path, HINT)))


def _read_boxes(
    persons: list[tuple[Value, ...]],
    image: Image,
    source: SourceConfig,
    identities: dict[Place, int],
    annotations: list[Annotation],
    noticed: Noticed,
) -> None:
    """Append the boxes of one image to `annotations`; note those that are none."""
    for place, (box, hard) in enumerate(persons):
        raw = _box(box)
        if raw is None or not (raw[2] > 0 and raw[3] > 0 and _is_finite(raw)):
            what = "not four numbers" if raw is None else f"{raw[2]:g} x {raw[3]:g} pixels"
            message = f"box {place} (counted from 0) of {image.file_name} is {what}"
            noticed.add("box-empty", "warning", message, "dropped", image.file_name)
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
        stored = box.ravel().tolist()
        set_extra(annotation, hard=int(_flag(hard)), pid=pid, raw_bbox=stored)
        annotations.append(annotation)


def _read_identities(folder: Path, noticed: Noticed) -> dict[Place, int]:
    """Identity number of each labelled box, from Train.mat and Person.mat as far as they exist."""
    identities: dict[Place, int] = {}
    files = {"Train": folder / "test" / "train_test" / "Train.mat", "Person": folder / "Person.mat"}
    for variable, path in files.items():
        if not is_file(path):
            message = f"{path} does not exist; persons that only it labels have pid -1"
            noticed.add("identities-missing", "info", message, "kept")
            continue
        nameless = clashes = 0
        for name, scene in _rows(path, variable, ("idname", "scene")):
            number = _PID.search(_text(name))
            if number is None:
                nameless += 1
                continue
            for place in _places(scene, f"{path}: scene of {_text(name)}"):
                clashes += identities.setdefault(place, int(number[0])) != int(number[0])
        if nameless or clashes:
            message = (
                f"{path}: {nameless} identities whose name does not end in a number, {clashes}"
                " boxes with a second identity"
            )
            noticed.add("identity-unclear", "warning", message, "not used")
    return identities


def _places(scene: Value, where: str) -> Iterator[Place]:
    for name, value in rows(scene, ("imname", "idlocate"), where, HINT):
        box = _box(value)
        if box is not None:
            yield _text(name), box


def _rows(path: Path, variable: str, fields: tuple[str, ...]) -> list[tuple[Value, ...]]:
    return rows(pick(load(path, HINT), variable, path, HINT), fields, f"{path}: {variable}", HINT)


def _test_variable(path: Path) -> tuple[str, Value]:
    """Name and value of the protocol in a file, which may have been renamed."""
    values = load(path, TEST_HINT)
    tests = [name for name in values if name.startswith("TestG")]
    name = tests[0] if len(tests) == 1 and path.stem not in values else path.stem
    return name, pick(values, name, path, TEST_HINT)


def _box(value: Value) -> tuple[float, ...] | None:
    """Four float64 numbers, or None if there are not four; never in MATLAB's narrow integers."""
    if not isinstance(value, np.ndarray) or value.size != 4:
        return None
    return tuple(value.astype(np.float64).ravel().tolist())


def _is_finite(box: tuple[float, ...]) -> bool:
    """Whether a box and its area are finite numbers."""
    return all(map(math.isfinite, (*box, box[2] * box[3])))


def _flag(value: Value) -> bool:
    return bool(isinstance(value, np.ndarray) and value.size and value.flat[0])


def _text(value: Value) -> str:
    """The first text in a value, whatever cells it lies in; empty if there is none."""
    return next(texts(value), "")
