"""A detector's results as arrays: read and checked once, for everything that evaluates them.

Format: https://cocodataset.org/#format-results. Boxes are [x, y, width, height] in pixels.

Shape suffixes: D detections, 4 coordinates of a box.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from relaydet.data.dataset import gc_paused
from relaydet.errors import RelayError
from relaydet.evaluation.records import (
    Box,
    Detections,
    Truth,
    boxes_of,
    decoded,
    rows_of,
    shown,
)
from relaydet.json_file import UNDECODABLE

Detection = dict[str, Any]
"""COCO's result: {image_id, category_id, bbox [x, y, width, height], score}."""


_PIECE = 1 << 18
"""Bytes of a results file that are read at a time: the quickest of 8 KB to 4 MB, measured."""


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    score: float


@dataclass(frozen=True, eq=False)
class _Columns:
    """COCO results by field, as their file has them."""

    image_ids: Sequence[Any]
    category_ids: Sequence[Any]
    boxes_D4: np.ndarray
    score_D: np.ndarray


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
        plain = decoded(given, where or "The detections")
        _check_results(plain, called)
        columns = _columns_by_hand(plain)
    image_D = rows_of(columns.image_ids, truth.image_ids)
    category_D = rows_of(columns.category_ids, truth.category_ids)
    boxes_D4, score_D = columns.boxes_D4, columns.score_D
    _check_numbers(boxes_D4, score_D, called)
    unknown = np.flatnonzero(image_D < 0)
    if len(unknown):
        image_id = shown(columns.image_ids[unknown[0]])
        raise RelayError(
            f"{called}Detection {unknown[0]} is of image {image_id}, which the ground truth does"
            " not have; were these detections made on another dataset?"
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
        ids = sorted({shown(columns.category_ids[place]) for place in lost.tolist()})
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
    except UNDECODABLE:
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
        boxes_of(r.bbox for r in records),
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
        boxes_of(d["bbox"] for d in given),
        np.array([d["score"] for d in given], np.float64),
    )


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
                f"{called}Detection {place} is not a COCO result ({shown(error)}); each needs"
                " image_id, category_id, bbox and score."
            ) from error
        if not sound:
            raise RelayError(
                f"{called}Detection {place} has a box or score that is no number: {shown(numbers)}."
            )
