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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relaydet.errors import RelayError
from relaydet.evaluation.engines import ENGINES, FAST, REFERENCE, accumulated, evaluated
from relaydet.evaluation.records import Detections, Truth, truth_of
from relaydet.evaluation.results import Detection, detections_of

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_AT_1, _AT_10, _AT_100 = range(3)
_IOU_50, _IOU_75 = 0, 5
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
    recall_TKAM: np.ndarray
    engine: str
    """Name and version of what computed it, and why it was taken."""
    findings: tuple[str, ...] = ()
    """What is odd about the detections and no reason to stop."""

    def curve(self) -> np.ndarray:
        """Precision at IoU 0.5 at the recalls 0, 0.01, ..., 1, averaged over the categories."""
        precision_RK = self.precision_TRKAM[_IOU_50, :, :, _ALL, _AT_100]
        valid = precision_RK[:, (precision_RK > -1).all(axis=0)]
        return valid.mean(axis=1) if valid.size else np.zeros(len(precision_RK))


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
    precision, recall = _arrays(name, truth, found)
    if verify and name != REFERENCE:
        _compare(name, (precision, recall), _arrays(REFERENCE, truth, found))
        reason += "; verified against pycocotools"
    return Scores(
        metrics=summarise(precision, recall),
        per_category={
            category: summarise(precision[:, :, [k]], recall[:, [k]])
            for k, category in enumerate(_names(truth))
        },
        precision_TRKAM=precision,
        recall_TKAM=recall,
        engine=f"{name} {importlib.metadata.version(name)} ({reason})",
        findings=found.findings,
    )


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
    names = truth.category_names
    return [
        name if names.count(name) == 1 else f"{name} (id {number})"
        for name, number in zip(names, truth.category_ids, strict=True)
    ]


def _are_clean(ids: Sequence[Any]) -> bool:
    return len(set(ids)) == len(ids) and all(type(i) is int and i >= 1 for i in ids)


def _arrays(engine: str, truth: Truth, found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M]."""
    return accumulated(evaluated(engine, truth, found))


def _compare(
    name: str, ours: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]
) -> None:
    for what, mine, theirs in zip(("precision", "recall"), ours, reference, strict=True):
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=1e-12):
            raise RelayError(
                f"{name} and pycocotools differ in {what}; use the engine pycocotools and report"
                " this dataset."
            )
