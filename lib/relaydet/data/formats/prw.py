"""PRW (person re-identification in the wild): a folder with a MATLAB file per video frame.

Source of the format: Zheng et al., "Person Re-identification in the Wild", CVPR 2017,
https://arxiv.org/abs/1604.02531; 11,816 frames. The root folder, which `SourceConfig.annotations`
names, holds:

    annotations/<frame>.jpg.mat   one variable, an Nx5 array: [pid, x, y, w, h] of every person. It
                                  is called box_new, anno_file or anno_previous; where a file has
                                  several, the first of these is taken
    frame_train.mat   img_index_train   Nx1 cells with the names of frames, without ".jpg"
    frame_test.mat    img_index_test    the same; also seen as image_index_test
    frames/<frame>.jpg                  the images, which `SourceConfig.images` names

Boxes are floats in pixels, dragged by hand in MATLAB. Some begin left of the image, at x = -1.7;
`checks.boxes` clamps them. MATLAB calls the first pixel 1, so `source.offset` (1 by default) is
subtracted from x and y, as for CUHK-SYSU. The files themselves do not prove that: no box tells
where it counts from, and published loaders subtract nothing; set offset to 0 to agree with them.
The row's box as stored is kept in the extra field `raw_bbox`.

Extra fields: annotations have `pid` (-2 where the person is not labelled, as stored) and
`raw_bbox`; images have `split` (train or test) where a list names them. The files hold no image
sizes: they are read from the images later on (`checks.files`).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image, gc_paused, set_extra
from relaydet.data.findings import Finding
from relaydet.data.formats.matlab import Value, is_empty, load, texts
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import is_file, path_of
from relaydet.data.formats.text import is_unicode
from relaydet.errors import RelayError

PERSON = 1
SPLITS = ("all", "train", "test")
BOX_VARIABLES = ("box_new", "anno_file", "anno_previous")
LIST_VARIABLES = {
    "train": ("img_index_train", "image_index_train"),
    "test": ("img_index_test", "image_index_test"),
}
SUFFIX = ".jpg.mat"
# A frame of PRW shows some dozens. A row takes a few bytes in the file and a hundred times as many
# in memory, so a file of more is taken for broken.
MAX_PERSONS = 10_000
HINT = "give PRW's root folder, with annotations, frame_train.mat and frame_test.mat in it"


def read(source: SourceConfig) -> tuple[Dataset, list[Finding]]:
    """Read the root folder `source.annotations`, of the parts that `source.split` names.

    Returns:
        The dataset, images numbered from 1 in the order of their names, and what reading noticed.
        Images have width and height 0, until `checks.files.check_images` reads them from the files.

    Raises:
        RelayError: a file or a list that the split needs is missing, truncated, or without its
            variable; the split is unknown; no file is left.
    """
    if source.split not in SPLITS:
        raise RelayError(
            f"source {source.name}: the split is {source.split!r}; it must be one of"
            f" {', '.join(SPLITS)}."
        )
    root, noticed = path_of(source), Noticed(source.name)
    files = _annotation_files(root / "annotations", noticed)
    splits = _read_splits(root, source.split, set(files), noticed)
    dataset = Dataset([], [], [Category(PERSON, "person")])
    with gc_paused():
        for name, path in files.items():
            split = splits.get(name)
            if source.split in ("all", split):
                image = Image(len(dataset.images) + 1, name, 0, 0)
                if split is not None:
                    set_extra(image, split=split)
                dataset.images.append(image)
                _read_boxes(_load_boxes(path), image, source, dataset.annotations, noticed)
    if not dataset.images:
        raise RelayError(f"{root}: no frame of the split {source.split} has annotations; {HINT}.")
    return dataset, noticed.findings()


def _annotation_files(folder: Path, noticed: Noticed) -> dict[str, Path]:
    """Annotation file of each image name, in the order of the names."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RelayError(f"{str(folder)[-300:]}: cannot be listed ({reason}); {HINT}.") from error
    # What macOS leaves beside files begins with a dot.
    wanted = [n for n in names if n.endswith(SUFFIX) and not n.startswith(".") and is_unicode(n)]
    if not wanted:
        raise RelayError(f"{folder}: holds no annotation file <frame>{SUFFIX}; {HINT}.")
    if len(wanted) < len(names):
        message = f"{folder}: {len(names) - len(wanted)} files are not named <frame>{SUFFIX}"
        noticed.add("file-left", "info", message, "not read")
    return {name.removesuffix(".mat"): folder / name for name in wanted}


def _read_splits(root: Path, split: str, known: set[str], noticed: Noticed) -> dict[str, str]:
    """Split of each image name that a list holds; lists that nobody asks for may be missing."""
    splits: dict[str, str] = {}
    for part in ("train", "test"):
        path = root / f"frame_{part}.mat"
        if split != part and not is_file(path):
            if split == "all":
                message = f"{path} does not exist; frames that only it names have no split"
                noticed.add("split-unknown", "info", message, "kept, without split")
            continue
        names = _read_list(path, part)
        for what, code, listed, action in (
            ("have no annotations", "annotation-missing", names - known, "left out"),
            ("are for training as well", "split-unclear", names & splits.keys(), "kept as train"),
        ):
            if listed:
                message = f"{path}: {len(listed)} frames {what}, as {min(listed)}"
                noticed.add(code, "warning", message, action)
        splits = {**dict.fromkeys(names, part), **splits}
    unlisted = known - splits.keys()
    if splits and unlisted:
        message = f"{root}: {len(unlisted)} frames are in no list, as {min(unlisted)}"
        action = "kept, without split" if split == "all" else "left out"
        noticed.add("frame-unlisted", "info", message, action)
    return splits


def _read_list(path: Path, part: str) -> set[str]:
    """Image names in a list of frames."""
    names = {
        name if name.endswith(".jpg") else f"{name}.jpg"
        for name in texts(_first_of(path, LIST_VARIABLES[part]))
    }
    if not names:
        raise RelayError(f"{path}: names no frame in cells of text; {HINT}.")
    return names


def _load_boxes(path: Path) -> np.ndarray:
    """Rows [pid, x, y, width, height] as stored; [N, 5] of any number type."""
    rows = _first_of(path, BOX_VARIABLES)
    if is_empty(rows):
        return np.zeros((0, 5))
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 5:
        shape = f"{rows.shape} numbers" if isinstance(rows, np.ndarray) else "no numbers"
        raise RelayError(
            f"{path}: its boxes should be rows of five numbers (pid, x, y, width, height), but are"
            f" {shape}; download the file again."
        )
    if len(rows) > MAX_PERSONS:
        raise RelayError(f"{path}: {len(rows)} boxes in one frame; download the file again.")
    return rows


def _first_of(path: Path, names: tuple[str, ...]) -> Value:
    """The first of these variables that a file has."""
    values = load(path, HINT)
    for name in names:
        if name in values:
            return values[name]
    raise RelayError(
        f"{path}: has none of the variables {', '.join(names)}, but"
        f" {', '.join(values) or 'none at all'}; {HINT}."
    )


def _read_boxes(
    rows_N5: np.ndarray,
    image: Image,
    source: SourceConfig,
    annotations: list[Annotation],
    noticed: Noticed,
) -> None:
    """Append the boxes of one image to `annotations`; note those that are none."""
    # Stored as any type that holds them: wide, before any arithmetic.
    rows = zip(rows_N5[:, 1:].tolist(), rows_N5.astype(np.float64).tolist(), strict=True)
    for place, (stored, (pid, x, y, width, height)) in enumerate(rows):
        finite = math.isfinite(width * height) and np.isfinite((pid, x, y)).all()
        if not (finite and width > 0 and height > 0):
            message = f"box {place} (counted from 0) of {image.file_name} is {stored}"
            noticed.add("box-empty", "warning", message, "dropped", image.file_name)
            continue
        annotation = Annotation(
            id=len(annotations) + 1,
            image_id=image.id,
            category_id=PERSON,
            bbox=(x - source.offset, y - source.offset, width, height),
            area=width * height,
        )
        number = int(pid) if pid.is_integer() else pid
        set_extra(annotation, pid=number, raw_bbox=stored)
        annotations.append(annotation)
