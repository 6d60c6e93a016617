"""COCO's average precision and recall of detections against ground truth.

pycocotools is the reference. A faster engine (hotcoco, else faster-coco-eval) gives the same arrays
and is taken where it is installed and the annotation ids are clean; `verify` recomputes with
pycocotools.

Shape suffixes, as pycocotools defines them: T IoU thresholds, R recall thresholds, K categories,
A area ranges (all, small, medium, large), M detection limits (1, 10, 100).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from relaydet.errors import RelayError
from relaydet.evaluation.engines import ENGINES, FAST, REFERENCE, accumulated, evaluated
from relaydet.evaluation.records import Detections, Truth, truth_of
from relaydet.evaluation.results import Detection, detections_of

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_AT_1, _AT_10, _AT_100 = range(3)
_IOU_50, _IOU_75 = 0, 5
RECALLS = 101
MANY = 1000
"""Categories whose arrays are in memory at a time: 0.1 GB, and as much again in pycocotools."""
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""The 12 COCO numbers by their usual names."""


@dataclass(frozen=True)
class Scores:
    """The result of an evaluation."""

    metrics: dict[str, float]
    """The 12 COCO numbers by their usual names; -1 where there is no such ground truth."""
    per_category: dict[str, dict[str, float]]
    precision_TRKAM: np.ndarray
    """Of no category where there are more than MANY: of 20,000 it would take 2 GB."""
    recall_TKAM: np.ndarray
    engine: str
    """Name and version of what computed it, and why it was taken."""
    findings: tuple[str, ...] = ()
    """What is odd about the detections and no reason to stop."""
    curve_R: np.ndarray | None = None
    """What `curve` returns where the arrays are of no category."""

    def curve(self) -> np.ndarray:
        """Precision at IoU 0.5 at the recalls 0, 0.01, ..., 1, averaged over the categories."""
        if self.curve_R is not None:
            return self.curve_R
        valid_RK = _valid_curves(self.precision_TRKAM)
        return valid_RK.mean(axis=1) if valid_RK.size else np.zeros(len(valid_RK))


def score(
    ground_truth: Truth | dict[str, Any] | bytes,
    detections: Detections | Sequence[Detection] | bytes,
    engine: str = "auto",
    verify: bool = False,
) -> Scores:
    """Evaluate boxes as pycocotools does.

    Args:
        ground_truth: a COCO dataset: read already, as JSON gives it, or a file's bytes.
        detections: COCO results, likewise: {image_id, category_id, bbox [x, y, width, height],
            score}. None at all give 0.
        engine: auto, pycocotools, hotcoco or faster-coco-eval.
        verify: compute with pycocotools as well and compare every number.

    Raises:
        RelayError: detections of images that the ground truth does not have, boxes or scores
            that are no numbers, an unknown engine, or `verify` found a difference.
    """
    truth = truth_of(ground_truth)
    found = detections_of(detections, truth)
    name, reason = choose_engine(truth, engine)
    verify = verify and name != REFERENCE
    if verify:
        reason += "; verified against pycocotools"
    told = f"{name} {importlib.metadata.version(name)} ({reason})"
    if len(truth.category_ids) > MANY:
        return _score_in_parts(name, truth, found, verify, told)
    precision, recall = _arrays(name, truth, found, verify)
    return Scores(
        metrics=summarise(precision, recall),
        per_category=dict(zip(_names(truth), _each(precision, recall), strict=True)),
        precision_TRKAM=precision,
        recall_TKAM=recall,
        engine=told,
        findings=found.findings,
    )


def _score_in_parts(
    engine: str, truth: Truth, found: Detections, verify: bool, told: str
) -> Scores:
    """Evaluate a part of the categories at a time: the arrays of all would fill the memory.

    The numbers are the same: each category has as many entries as any other, or none, so that the
    mean over all entries is that over the means of the categories.
    """
    each: list[dict[str, float]] = [dict.fromkeys(METRICS, -1.0)] * len(truth.category_ids)
    curves, count = np.zeros(RECALLS), 0
    rows_K = np.unique(truth.category_N)  # without an object a category has no number
    for first in range(0, len(rows_K), MANY):
        part_K = rows_K[first : first + MANY]
        some, theirs = _of_categories(truth, found, part_K)
        precision, recall = _arrays(engine, some, theirs, verify)
        for row, metrics in zip(part_K.tolist(), _each(precision, recall), strict=True):
            each[row] = metrics
        valid_RK = _valid_curves(precision)
        curves, count = curves + valid_RK.sum(axis=1), count + valid_RK.shape[1]
    values = {name: np.array([metrics[name] for metrics in each]) for name in METRICS}
    ious, areas, limits = 10, 4, 3
    return Scores(
        metrics={name: _mean(values[name]) for name in METRICS},
        per_category=dict(zip(_names(truth), each, strict=True)),
        precision_TRKAM=np.zeros((ious, RECALLS, 0, areas, limits)),
        recall_TKAM=np.zeros((ious, 0, areas, limits)),
        engine=told,
        findings=found.findings,
        curve_R=curves / max(count, 1),
    )


def _of_categories(truth: Truth, found: Detections, rows_K: np.ndarray) -> tuple[Truth, Detections]:
    """All images with some of the categories, by row."""
    new_K = np.full(len(truth.category_ids), -1)
    new_K[rows_K] = np.arange(len(rows_K))
    kept_N, kept_D = new_K[truth.category_N] >= 0, new_K[found.category_D] >= 0
    some = replace(
        truth,
        category_ids=[truth.category_ids[row] for row in rows_K],
        category_names=[truth.category_names[row] for row in rows_K],
        ids=[truth.ids[place] for place in np.flatnonzero(kept_N)],
        image_N=truth.image_N[kept_N],
        category_N=new_K[truth.category_N[kept_N]],
        boxes_N4=truth.boxes_N4[kept_N],
        area_N=truth.area_N[kept_N],
        crowd_N=truth.crowd_N[kept_N],
    )
    theirs = replace(
        found,
        image_D=found.image_D[kept_D],
        category_D=new_K[found.category_D[kept_D]],
        boxes_D4=found.boxes_D4[kept_D],
        score_D=found.score_D[kept_D],
    )
    return some, theirs


def _each(precision_TRKAM: np.ndarray, recall_TKAM: np.ndarray) -> list[dict[str, float]]:
    """The 12 numbers of each category."""
    categories = precision_TRKAM.shape[2]
    return [summarise(precision_TRKAM[:, :, [k]], recall_TKAM[:, [k]]) for k in range(categories)]


def _valid_curves(precision_TRKAM: np.ndarray) -> np.ndarray:
    """Precision [R, K] at IoU 0.5 of the categories that have an object."""
    precision_RK = precision_TRKAM[_IOU_50, :, :, _ALL, _AT_100]
    return precision_RK[:, (precision_RK > -1).all(axis=0)]


def summarise(precision_TRKAM: np.ndarray, recall_TKAM: np.ndarray) -> dict[str, float]:
    """The 12 numbers of pycocotools' summary, from its arrays.

    Each is the mean over the entries that are not -1, and -1 where there is none
    (https://cocodataset.org/#detection-eval).
    """

    def ap(iou: int | slice, area: int) -> float:
        return _mean(precision_TRKAM[iou][..., area, _AT_100])

    def ar(area: int, limit: int) -> float:
        return _mean(recall_TKAM[..., area, limit])

    every = slice(None)
    return {
        "AP": ap(every, _ALL),
        "AP50": ap(_IOU_50, _ALL),
        "AP75": ap(_IOU_75, _ALL),
        "APs": ap(every, _SMALL),
        "APm": ap(every, _MEDIUM),
        "APl": ap(every, _LARGE),
        "AR1": ar(_ALL, _AT_1),
        "AR10": ar(_ALL, _AT_10),
        "AR100": ar(_ALL, _AT_100),
        "ARs": ar(_SMALL, _AT_100),
        "ARm": ar(_MEDIUM, _AT_100),
        "ARl": ar(_LARGE, _AT_100),
    }


def score_per_source(
    ground_truth: Truth | dict[str, Any] | bytes,
    detections: Detections | Sequence[Detection] | bytes,
    engine: str = "auto",
) -> dict[str, dict[str, float]]:
    """The 12 numbers on the images of each source of a merged dataset."""
    truth = truth_of(ground_truth)
    found = detections_of(detections, truth)
    result = {}
    for source in sorted(set(truth.sources)):
        rows = np.flatnonzero([name == source for name in truth.sources])
        part = found.of_images(rows, len(truth.sources))
        result[source] = score(truth.of_images(rows), part, engine).metrics
    return result


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else -1.0


def choose_engine(truth: Truth, asked: str = "auto") -> tuple[str, str]:
    """Name of the engine to take, and why.

    Raises:
        RelayError: the engine asked for is unknown, or not installed.
    """
    if asked not in ("auto", *ENGINES):
        raise RelayError(f"Engine {asked!r} is unknown; take auto, {', '.join(ENGINES)}.")
    there = [name for name in FAST if importlib.util.find_spec(name.replace("-", "_"))]
    if asked != "auto":
        if asked in FAST and asked not in there:
            raise RelayError(f"Engine {asked!r} is not installed; pip install {asked}.")
        return asked, "asked for"
    if not there:
        return REFERENCE, "the reference; the extra 'fast' is not installed"
    if not _are_clean(truth.ids):
        return REFERENCE, "the reference; annotation ids are not unique and positive"
    return there[0], "installed, and ids are clean"


def _names(truth: Truth) -> list[str]:
    """Names of the categories; those that several have with their ids."""
    names, count = truth.category_names, Counter(truth.category_names)
    return [
        name if count[name] == 1 else f"{name} (id {number})"
        for name, number in zip(names, truth.category_ids, strict=True)
    ]


def _are_clean(ids: Sequence[Any]) -> bool:
    return len(set(ids)) == len(ids) and all(type(i) is int and i >= 1 for i in ids)


def _arrays(
    engine: str, truth: Truth, found: Detections, verify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M]."""
    arrays = accumulated(evaluated(engine, truth, found))
    if verify:
        _compare(engine, arrays, accumulated(evaluated(REFERENCE, truth, found)))
    return arrays


def _compare(
    name: str, ours: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]
) -> None:
    for what, mine, theirs in zip(("precision", "recall"), ours, reference, strict=True):
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=1e-12):
            raise RelayError(
                f"{name} and pycocotools differ in {what}; use the engine pycocotools and report"
                " this dataset."
            )
