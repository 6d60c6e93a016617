"""Ground truth and detections as arrays: read and checked once, for everything that evaluates them.

Formats: https://cocodataset.org/#format-data and #format-results. Boxes are [x, y, width, height]
in pixels.

Shape suffixes: M images, K categories, N annotations, D detections, 4 coordinates of a box.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from relaydet.data.dataset import SPARSEST, gc_paused
from relaydet.errors import RelayError

Detection = dict[str, Any]
"""COCO's result: {image_id, category_id, bbox [x, y, width, height], score}."""

# What is read of each record of the ground truth.
_NEEDED_KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
_Box = tuple[float, float, float, float]
_PIECE = 1 << 18
"""Bytes of a results file that are read at a time: the quickest of 8 KB to 4 MB, measured."""


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
    bbox: _Box
    area: float
    iscrowd: int = 0


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Truth(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: _Box
    score: float


@dataclass(frozen=True, eq=False)
class _Columns:
    """COCO results by field, as their file has them."""

    image_ids: Sequence[Any]
    category_ids: Sequence[Any]
    boxes_D4: np.ndarray
    score_D: np.ndarray


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
    typed = _typed(given, _Truth)
    if typed is None:
        plain = _decoded(given, where or "The ground truth")
        _check_truth(plain)
        typed = _by_hand(plain)
    images, categories = (
        _ascending(typed.images, "images"),
        _ascending(typed.categories, "categories"),
    )
    image_ids, category_ids = [i.id for i in images], [c.id for c in categories]
    all_ = typed.annotations
    image_N = _rows([a.image_id for a in all_], image_ids)
    category_N = _rows([a.category_id for a in all_], category_ids)
    kept_N = (image_N >= 0) & (category_N >= 0)
    kept = all_ if kept_N.all() else [a for a, keep in zip(all_, kept_N, strict=True) if keep]
    boxes_N4, area_N = _boxes(a.bbox for a in kept), np.array([a.area for a in kept], np.float64)
    wrong = np.flatnonzero(~(np.isfinite(boxes_N4).all(axis=1) & np.isfinite(area_N)))
    if len(wrong):
        raise RelayError(
            f"The ground truth's annotation {kept[wrong[0]].id!r} has a box or area that is not"
            f" finite: {[*boxes_N4[wrong[0]].tolist(), float(area_N[wrong[0]])]}."
        )
    return Truth(
        image_ids=image_ids,
        sides_M2=np.array([(i.width, i.height) for i in images], np.float64).reshape(-1, 2),
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


def detections_of(
    given: Detections | Sequence[Detection] | bytes, truth: Truth, where: str = ""
) -> Detections:
    """Detections from COCO results, as a file's bytes or as JSON gives them.

    Args:
        given: what a detector found.
        truth: the dataset that they are of.
        where: what to call them in an error; empty says no more than their place.

    Raises:
        RelayError: they are no COCO results, a box or score is no number, a side is negative, or
            an image is not in the dataset.
    """
    if isinstance(given, Detections):
        return given
    called = f"{where}: " if where else ""
    columns = _columns_of(given)
    if columns is None:
        plain = _decoded(given, where or "The detections")
        _check_results(plain, called)
        columns = _columns_by_hand(plain)
    image_D = _rows(columns.image_ids, truth.image_ids)
    category_D = _rows(columns.category_ids, truth.category_ids)
    boxes_D4, score_D = columns.boxes_D4, columns.score_D
    _check_numbers(boxes_D4, score_D, called)
    unknown = np.flatnonzero(image_D < 0)
    if len(unknown):
        raise RelayError(
            f"{called}Detection {unknown[0]} is of image {columns.image_ids[unknown[0]]!r}, which"
            " the ground truth does not have; were these detections made on another dataset?"
        )
    kept_D = category_D >= 0
    findings = tuple(_oddities(columns, kept_D))
    if kept_D.all():
        return Detections(image_D, category_D, boxes_D4, score_D, findings)
    return Detections(
        image_D[kept_D], category_D[kept_D], boxes_D4[kept_D], score_D[kept_D], findings
    )


def _oddities(columns: _Columns, kept_D: np.ndarray) -> Iterable[str]:
    if not kept_D.all():
        lost = np.flatnonzero(~kept_D)
        ids = sorted({str(columns.category_ids[place]) for place in lost.tolist()})
        more = " ..." if len(ids) > 5 else ""
        yield (
            f"{len(lost)} detections are of categories that the dataset does not"
            f" have (id {', '.join(ids[:5])}{more}) and count for nothing"
        )
    score_D = columns.score_D
    outside = np.count_nonzero((score_D < 0) | (score_D > 1))
    if outside:
        yield (
            f"{outside} scores are not between 0 and 1 ({score_D.min():g} to {score_D.max():g});"
            " the order alone counts for AP, thresholds and calibration mean nothing"
        )


def _columns_of(given: Any) -> _Columns | None:
    """COCO results at C speed; None where something is not as usual."""
    try:
        with gc_paused():
            if isinstance(given, bytes | bytearray | memoryview):
                return _joined([_columns(piece) for piece in _pieces(bytes(given))])
            return _columns(msgspec.convert(given, type=list[_Result]))
    except (msgspec.MsgspecError, OverflowError):
        return None


def _pieces(text: bytes) -> Iterator[list[_Result]]:
    """The records of a JSON list, some at a time: half a million at once do not fit any cache.

    It is cut where a record seems to end. A cut inside of a text or of a nested record leaves a
    piece that is no JSON, which raises.
    """
    decoder = msgspec.json.Decoder(list[_Result])
    cut = text.find(b"},", _PIECE)
    if cut < 0:
        yield decoder.decode(text)
        return
    yield decoder.decode(text[: cut + 1] + b"]")
    while (next_cut := text.find(b"},", cut + _PIECE)) >= 0:
        yield decoder.decode(b"[" + text[cut + 2 : next_cut + 1] + b"]")
        cut = next_cut
    yield decoder.decode(b"[" + text[cut + 2 :])


def _columns(records: Sequence[_Result]) -> _Columns:
    return _Columns(
        array("q", [r.image_id for r in records]),
        array("q", [r.category_id for r in records]),
        _boxes(r.bbox for r in records),
        np.fromiter((r.score for r in records), np.float64, len(records)),
    )


def _joined(parts: Sequence[_Columns]) -> _Columns:
    image_ids, category_ids = array("q"), array("q")
    for part in parts:
        image_ids.extend(part.image_ids)
        category_ids.extend(part.category_ids)
    boxes_D4 = np.concatenate([part.boxes_D4 for part in parts])
    return _Columns(
        image_ids, category_ids, boxes_D4, np.concatenate([part.score_D for part in parts])
    )


def _columns_by_hand(given: Sequence[Detection]) -> _Columns:
    return _Columns(
        [d["image_id"] for d in given],
        [d["category_id"] for d in given],
        _boxes(d["bbox"] for d in given),
        np.array([d["score"] for d in given], np.float64),
    )


def _typed(given: Any, kind: Any) -> Any:
    """The records at C speed; None where something is not as usual."""
    try:
        with gc_paused():
            if isinstance(given, bytes | bytearray | memoryview):
                return msgspec.json.decode(given, type=kind)
            return msgspec.convert(given, type=kind)
    except msgspec.MsgspecError:
        return None


def _decoded(given: Any, where: str) -> Any:
    if not isinstance(given, bytes | bytearray | memoryview):
        return given
    try:
        return json.loads(bytes(given))  # knows NaN, which is then named
    except ValueError as error:
        raise RelayError(f"{where}: not valid JSON ({error}); is it whole?") from error


def _by_hand(given: dict[str, Any]) -> _Truth:
    return _Truth(
        [
            _Image(
                i["id"],
                i.get("width") or 0,
                i.get("height") or 0,
                i.get("source"),
                str(i.get("file_name", "")),
            )
            for i in given["images"]
        ],
        [
            _Annotation(
                a["id"], a["image_id"], a["category_id"], a["bbox"], a["area"], a.get("iscrowd", 0)
            )
            for a in given["annotations"]
        ],
        [_Category(c["id"], c["name"]) for c in given["categories"]],
    )


def _ascending(records: Sequence[Any], what: str) -> list[Any]:
    """The records by their ids; of two with one id the last, as pycocotools has it."""
    try:
        return sorted({record.id: record for record in records}.values(), key=lambda r: r.id)
    except TypeError as error:
        raise RelayError(
            f"The ground truth's {what} have ids of several kinds ({error})."
        ) from error


def _boxes(boxes: Iterable[Sequence[float]]) -> np.ndarray:
    # Flat: numpy takes twice as long over a list of tuples.
    return np.fromiter(chain.from_iterable(boxes), np.float64).reshape(-1, 4)


def _rows(wanted: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Place of each id among the known ones, which ascend; -1 where it is not there."""
    try:
        # array refuses text and fractions, where numpy would take "1" for 1.
        wanted_N, known_M = (np.frombuffer(array("q", ids), np.int64) for ids in (wanted, known))
    except (TypeError, OverflowError):
        row_of = {name: row for row, name in enumerate(known)}
        return np.array([row_of.get(name, -1) for name in wanted], np.int64)
    if not len(known_M):
        return np.full(len(wanted_N), -1)
    if known_M[-1] - known_M[0] > SPARSEST * (len(known) + len(wanted)):
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


def _check_numbers(boxes_D4: np.ndarray, score_D: np.ndarray, called: str) -> None:
    if not (np.isfinite(boxes_D4).all() and np.isfinite(score_D).all()):
        wrong = np.flatnonzero(~(np.isfinite(boxes_D4).all(axis=1) & np.isfinite(score_D)))
        numbers = [*boxes_D4[wrong[0]].tolist(), float(score_D[wrong[0]])]
        raise RelayError(
            f"{called}Detection {wrong[0]} has a box or score that is no number: {numbers}."
        )
    if boxes_D4.size and boxes_D4[:, 2:].min() < 0:
        wrong = np.flatnonzero((boxes_D4[:, 2:] < 0).any(axis=1))
        raise RelayError(
            f"{called}Detection {wrong[0]} has a negative side: {boxes_D4[wrong[0]].tolist()};"
            " COCO's boxes are [x, y, width, height]."
        )


def _check_results(given: Any, called: str) -> None:
    """Raise for the first record that is no COCO result."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RelayError(f"{called}The detections are no list; give a COCO results file.")
    for place, detection in enumerate(given):
        try:
            numbers = [*detection["bbox"], detection["score"]]
            hash(detection["image_id"]), hash(detection["category_id"])
            sound = len(numbers) == 5 and all(map(math.isfinite, numbers))
        except (KeyError, TypeError, OverflowError) as error:
            raise RelayError(
                f"{called}Detection {place} is not a COCO result ({error!r}); each needs image_id,"
                " category_id, bbox and score."
            ) from error
        if not sound:
            raise RelayError(
                f"{called}Detection {place} has a box or score that is no number: {numbers}."
            )


def _check_truth(ground_truth: Any) -> None:
    """Raise for the first record that is none of a COCO instances file."""
    for section, keys in _NEEDED_KEYS.items():
        records = ground_truth.get(section) if isinstance(ground_truth, dict) else None
        if not isinstance(records, list):
            raise RelayError(
                f"The ground truth has no list of {section!r}; give a COCO instances file."
            )
        for place, record in enumerate(records):
            missing = [k for k in keys if not isinstance(record, dict) or k not in record]
            if missing:
                raise RelayError(
                    f"The ground truth has no {missing[0]!r} in {section}[{place}]; give a COCO"
                    " instances file."
                )
    for annotation in ground_truth["annotations"]:
        box = annotation["bbox"]
        numbers = [annotation["id"], annotation["area"], *(box if isinstance(box, list) else [])]
        if len(numbers) != 6 or not all(isinstance(n, int | float) for n in numbers):
            raise RelayError(
                f"The ground truth's annotation {annotation['id']!r} has an id, area or bbox that"
                f" is no number: {numbers}; give a COCO instances file."
            )
