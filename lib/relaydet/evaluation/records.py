"""Ground truth and detections as arrays, for everything that evaluates them.

The ground truth is read here, detections in results.py. Format:
https://cocodataset.org/#format-data. Boxes are [x, y, width, height] in pixels.

Shape suffixes: M images, K categories, N annotations, D detections, 4 coordinates of a box.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from relaydet.data.dataset import SPARSEST, gc_paused
from relaydet.errors import RelayError
from relaydet.json_file import UNDECODABLE, reason_of

# What is read of each record of the ground truth.
_NEEDED_KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
LARGEST = 1 << 1023
"""Whole numbers from here on may fit no float."""
LARGEST_ID = 1 << 63
LONGEST_SHOWN = 100
Box = tuple[float, float, float, float]


class _Image(msgspec.Struct, gc=False):
    id: int
    width: float = 0
    height: float = 0
    source: str | None = None
    file_name: str = ""


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float
    iscrowd: int = 0


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Truth(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True, eq=False)
class Truth:
    """A dataset to evaluate on. Rows of images and categories follow their ids, ascending."""

    image_ids: list[Any]
    sides_M2: np.ndarray
    """Width and height of each image in pixels, 0 where it is not told; float64."""
    sources: list[str]
    """Name of the source of each image; empty where it has none."""
    file_names: list[str]
    category_ids: list[Any]
    category_names: list[str]
    ids: list[Any]
    """Of the annotations."""
    image_N: np.ndarray
    """Row of the image of each annotation; int64."""
    category_N: np.ndarray
    boxes_N4: np.ndarray
    area_N: np.ndarray
    crowd_N: np.ndarray
    """Whether an annotation is a group, which hides detections instead of counting; bool."""

    def of_images(self, rows: np.ndarray) -> Truth:
        """The same categories on some of the images, by row."""
        kept_N, new_row_M = _renumbered(rows, len(self.image_ids), self.image_N)
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            sides_M2=self.sides_M2[rows],
            sources=[self.sources[row] for row in rows],
            file_names=[self.file_names[row] for row in rows],
            ids=[self.ids[place] for place in np.flatnonzero(kept_N)],
            image_N=new_row_M[self.image_N[kept_N]],
            category_N=self.category_N[kept_N],
            boxes_N4=self.boxes_N4[kept_N],
            area_N=self.area_N[kept_N],
            crowd_N=self.crowd_N[kept_N],
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector says of the images of a `Truth`, in its rows."""

    image_D: np.ndarray
    """Row of the image of each detection; int64."""
    category_D: np.ndarray
    boxes_D4: np.ndarray
    score_D: np.ndarray
    findings: tuple[str, ...] = ()
    """What is odd and no reason to stop, a sentence each."""

    def __len__(self) -> int:
        return len(self.score_D)

    def of_images(self, rows: np.ndarray, images: int) -> Detections:
        """Those on some of so many images, by row."""
        kept_D, new_row_M = _renumbered(rows, images, self.image_D)
        return Detections(
            new_row_M[self.image_D[kept_D]],
            self.category_D[kept_D],
            self.boxes_D4[kept_D],
            self.score_D[kept_D],
        )


def truth_of(given: Truth | dict[str, Any] | bytes, where: str = "") -> Truth:
    """Ground truth from a COCO dataset, as a file's bytes or as JSON gives it.

    Annotations of images or categories that it does not list count for nothing, and are left out.

    Args:
        given: the dataset.
        where: the file it is from, for errors.

    Raises:
        RelayError: it is no COCO instances file.
    """
    if isinstance(given, Truth):
        return given
    called = f"{where}: " if where else ""
    typed = _typed(given, _Truth)
    if typed is None:
        plain = decoded(given, where or "The ground truth")
        _check_truth(plain, called)
        typed = _by_hand(plain)
    images = _ascending(typed.images, "images", called)
    categories = _ascending(typed.categories, "categories", called)
    image_ids, category_ids = [i.id for i in images], [c.id for c in categories]
    all_ = typed.annotations
    image_N = rows_of([a.image_id for a in all_], image_ids)
    category_N = rows_of([a.category_id for a in all_], category_ids)
    kept_N = (image_N >= 0) & (category_N >= 0)
    kept = all_ if kept_N.all() else [a for a, keep in zip(all_, kept_N, strict=True) if keep]
    boxes_N4, area_N = boxes_of(a.bbox for a in kept), np.array([a.area for a in kept], np.float64)
    sides_M2 = np.array([(i.width, i.height) for i in images], np.float64).reshape(-1, 2)
    _check_arrays(kept, boxes_N4, area_N, images, sides_M2, called)
    return Truth(
        image_ids=image_ids,
        sides_M2=sides_M2,
        sources=[i.source or "" for i in images],
        file_names=[i.file_name for i in images],
        category_ids=category_ids,
        category_names=[c.name for c in categories],
        ids=[a.id for a in kept],
        image_N=image_N[kept_N],
        category_N=category_N[kept_N],
        boxes_N4=boxes_N4,
        area_N=area_N,
        crowd_N=np.array([bool(a.iscrowd) for a in kept], bool),
    )


def _typed(given: Any, kind: Any) -> Any:
    """The records at C speed; None where something is not as usual."""
    try:
        with gc_paused():
            if isinstance(given, bytes | bytearray | memoryview):
                return msgspec.json.decode(given, type=kind)
            return msgspec.convert(given, type=kind)
    except UNDECODABLE:
        return None


def decoded(given: Any, where: str) -> Any:
    """A JSON file's bytes as plain data; what is none is left as it is."""
    if not isinstance(given, bytes | bytearray | memoryview):
        return given
    try:
        return json.loads(bytes(given))  # knows NaN, which is then named
    except (ValueError, RecursionError) as error:
        raise RelayError(f"{where}: not valid JSON ({reason_of(error)}); is it whole?") from error


def _by_hand(given: dict[str, Any]) -> _Truth:
    return _Truth(
        [
            _Image(
                i["id"],
                i.get("width") or 0,
                i.get("height") or 0,
                i["source"] if isinstance(i.get("source"), str) else None,
                str(i.get("file_name", "")),
            )
            for i in given["images"]
        ],
        [
            _Annotation(
                a["id"],
                a["image_id"],
                a["category_id"],
                a["bbox"],
                a["area"],
                int(a.get("iscrowd") or 0),
            )
            for a in given["annotations"]
        ],
        [_Category(c["id"], str(c["name"])) for c in given["categories"]],
    )


def _ascending(records: Sequence[Any], what: str, called: str) -> list[Any]:
    """The records by their ids; of two with one id the last, as pycocotools has it."""
    try:
        ascending = sorted({record.id: record for record in records}.values(), key=lambda r: r.id)
    except TypeError as error:
        raise RelayError(
            f"{called}The ground truth's {what} have ids of several kinds ({error}); give all of"
            " them numbers, or all of them text."
        ) from error
    for record in ascending[:1] + ascending[-1:]:
        if not _is_id(record.id):
            raise RelayError(
                f"{called}The ground truth's {what} have the id {shown(record.id)}, which is not a"
                " whole number of 64 bits or a text; give a COCO instances file."
            )
    return ascending


def _check_arrays(
    annotations: Sequence[Any],
    boxes_N4: np.ndarray,
    area_N: np.ndarray,
    images: Sequence[Any],
    sides_M2: np.ndarray,
    called: str,
) -> None:
    """Raise for the first annotation or image whose numbers cannot be of one."""
    wrong = np.flatnonzero(~(np.isfinite(boxes_N4).all(axis=1) & np.isfinite(area_N)))
    if len(wrong):
        raise RelayError(
            f"{called}The ground truth's annotation {shown(annotations[wrong[0]].id)} has a bbox or"
            f" area that is not finite: {[*boxes_N4[wrong[0]].tolist(), float(area_N[wrong[0]])]}."
        )
    wrong = np.flatnonzero((boxes_N4[:, 2:] < 0).any(axis=1))
    if len(wrong):
        raise RelayError(
            f"{called}The ground truth's annotation {shown(annotations[wrong[0]].id)} has a bbox"
            f" with a negative side: {boxes_N4[wrong[0]].tolist()}; COCO's boxes are"
            " [x, y, width, height]."
        )
    wrong = np.flatnonzero((sides_M2 < 0).any(axis=1))
    if len(wrong):
        raise RelayError(
            f"{called}The ground truth's image {shown(images[wrong[0]].id)} has a negative width or"
            f" height: {sides_M2[wrong[0]].tolist()}."
        )


def shown(value: Any) -> str:
    """A value of a file for a message, however long it is."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def boxes_of(boxes: Iterable[Sequence[float]]) -> np.ndarray:
    """Boxes as float64 [N, 4]."""
    # Flat: numpy takes twice as long over a list of tuples.
    return np.fromiter(chain.from_iterable(boxes), np.float64).reshape(-1, 4)


def rows_of(wanted: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Place of each id among the known ones, which ascend; -1 where it is not there."""
    try:
        # array refuses text and fractions, where numpy would take "1" for 1.
        wanted_N, known_M = (np.frombuffer(array("q", ids), np.int64) for ids in (wanted, known))
    except (TypeError, OverflowError):
        row_of = {name: row for row, name in enumerate(known)}
        return np.array([row_of.get(name, -1) for name in wanted], np.int64)
    if not len(known_M):
        return np.full(len(wanted_N), -1)
    if int(known_M[-1]) - int(known_M[0]) > SPARSEST * (len(known) + len(wanted)):
        rows_N = np.minimum(np.searchsorted(known_M, wanted_N), len(known_M) - 1)
        return np.where(known_M[rows_N] == wanted_N, rows_N, -1)
    row_of_id = np.full(known_M[-1] - known_M[0] + 1, -1)
    row_of_id[known_M - known_M[0]] = np.arange(len(known_M))
    if len(wanted_N) and wanted_N.min() >= known_M[0] and wanted_N.max() <= known_M[-1]:
        return row_of_id[wanted_N - known_M[0]]
    inside_N = (wanted_N >= known_M[0]) & (wanted_N <= known_M[-1])
    return np.where(inside_N, row_of_id[np.where(inside_N, wanted_N - known_M[0], 0)], -1)


def _renumbered(rows: np.ndarray, images: int, image_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which records are of those images, and each image's row among them."""
    new_row_M = np.full(images, -1)
    new_row_M[rows] = np.arange(len(rows))
    return new_row_M[image_N] >= 0, new_row_M


def _check_truth(ground_truth: Any, called: str) -> None:
    """Raise for the first record that is none of a COCO instances file."""
    for section, keys in _NEEDED_KEYS.items():
        records = ground_truth.get(section) if isinstance(ground_truth, dict) else None
        if not isinstance(records, list):
            raise RelayError(
                f"{called}The ground truth has no list of {section!r}; give a COCO instances file."
            )
        for place, record in enumerate(records):
            missing = [k for k in keys if not isinstance(record, dict) or k not in record]
            if missing:
                raise RelayError(
                    f"{called}The ground truth has no {missing[0]!r} in {section}[{place}]; give a"
                    " COCO instances file."
                )
            for key, (is_right, what) in _KINDS[section].items():
                if key in record and not is_right(record[key]):
                    raise RelayError(
                        f"{called}The ground truth's {section}[{place}] has"
                        f" {key} {shown(record[key])}, which is not {what}; give a COCO instances"
                        " file."
                    )


def is_number(value: Any) -> bool:
    """Whether a value is a number that fits a float; NaN and infinity do, and are named later."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < LARGEST


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) < LARGEST_ID
    return isinstance(value, str) or (is_number(value) and abs(value) < LARGEST_ID)


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))


_ID = (_is_id, "a whole number of 64 bits or a text")
_SIDE = (lambda value: value is None or is_number(value), "a number")
_KINDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {"id": _ID, "width": _SIDE, "height": _SIDE},
    "annotations": {
        "id": (lambda value: is_number(value) and abs(value) < LARGEST_ID, "a number of 64 bits"),
        "image_id": _ID,
        "category_id": _ID,
        "bbox": (_is_box, "a list of four numbers"),
        "area": (is_number, "a number"),
        "iscrowd": (lambda value: value is None or value in (0, 1), "0 or 1"),
    },
    "categories": {
        "id": _ID,
        "name": (lambda value: isinstance(value, str) or is_number(value), "a text"),
    },
}
"""What each value of a record must be, where it is there, and how to call that."""
