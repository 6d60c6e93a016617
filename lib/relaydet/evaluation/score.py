"""COCO's average precision and recall of detections against ground truth.

pycocotools is the reference. A faster engine (hotcoco, extra `fast`) gives the same arrays and is
taken where it is installed and the annotation ids are clean; `verify` recomputes with pycocotools.

Shape suffixes, as pycocotools defines them: T IoU thresholds, R recall thresholds, K categories,
A area ranges (all, small, medium, large), M detection limits (1, 10, 100).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relaydet.errors import RelayError

Detection = dict[str, Any]

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_AT_1, _AT_10, _AT_100 = range(3)
_IOU_50, _IOU_75 = 0, 5

# What pycocotools reads of each record of the ground truth.
_NEEDED_KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


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

    def curve(self) -> np.ndarray:
        """Precision at IoU 0.5 at the recalls 0, 0.01, ..., 1, averaged over the categories."""
        precision_RK = self.precision_TRKAM[_IOU_50, :, :, _ALL, _AT_100]
        valid = precision_RK[:, (precision_RK > -1).all(axis=0)]
        return valid.mean(axis=1) if valid.size else np.zeros(len(precision_RK))


def score(
    ground_truth: dict[str, Any],
    detections: Sequence[Detection],
    engine: str = "auto",
    verify: bool = False,
) -> Scores:
    """Evaluate boxes as pycocotools does.

    Args:
        ground_truth: a COCO dataset as JSON gives it.
        detections: COCO results: {image_id, category_id, bbox [x, y, width, height], score}.
        engine: auto, pycocotools or hotcoco.
        verify: compute with pycocotools as well and compare every number.

    Raises:
        RelayError: detections of images that the ground truth does not have, boxes or scores
            that are no numbers, an unknown engine, or `verify` found a difference.
    """
    _check(ground_truth, detections)
    name, reason = _choose_engine(ground_truth, engine)
    precision, recall = _evaluate(name, ground_truth, detections)
    if verify and name != "pycocotools":
        _compare(name, (precision, recall), _evaluate("pycocotools", ground_truth, detections))
        reason += "; verified against pycocotools"
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    return Scores(
        metrics=summarise(precision, recall),
        per_category={
            category["name"]: summarise(precision[:, :, [k]], recall[:, [k]])
            for k, category in enumerate(categories)
        },
        precision_TRKAM=precision,
        recall_TKAM=recall,
        engine=f"{name} {importlib.metadata.version(name)} ({reason})",
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
    ground_truth: dict[str, Any], detections: Sequence[Detection], engine: str = "auto"
) -> dict[str, dict[str, float]]:
    """The 12 numbers on the images of each source of a merged dataset."""
    sources = sorted({image.get("source", "") for image in ground_truth["images"]})
    result = {}
    for source in sources:
        images = [i for i in ground_truth["images"] if i.get("source", "") == source]
        ids = {image["id"] for image in images}
        part = {
            **ground_truth,
            "images": images,
            "annotations": [a for a in ground_truth["annotations"] if a["image_id"] in ids],
        }
        found = [d for d in detections if d["image_id"] in ids]
        result[source] = score(part, found, engine).metrics
    return result


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(np.mean(valid)) if valid.size else -1.0


def _check(ground_truth: dict[str, Any], detections: Sequence[Detection]) -> None:
    _check_ground_truth(ground_truth)
    if not isinstance(detections, Sequence):
        raise RelayError("The detections are no list; give a COCO results file.")
    images = {image["id"] for image in ground_truth["images"]}
    for place, detection in enumerate(detections):
        try:
            numbers = [*detection["bbox"], detection["score"]]
            image, _ = detection["image_id"], detection["category_id"]
            sound = len(numbers) == 5 and all(map(math.isfinite, numbers))
            known = image in images
        except (KeyError, TypeError, OverflowError) as error:
            raise RelayError(
                f"Detection {place} is not a COCO result ({error!r}); each needs image_id,"
                " category_id, bbox and score."
            ) from error
        if not sound:
            raise RelayError(f"Detection {place} has a box or score that is no number: {numbers}.")
        if not known:
            raise RelayError(
                f"Detection {place} is of image {image!r}, which the ground truth does not have;"
                " were these detections made on another dataset?"
            )


def _check_ground_truth(ground_truth: dict[str, Any]) -> None:
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


def _choose_engine(ground_truth: dict[str, Any], asked: str) -> tuple[str, str]:
    if asked not in ("auto", "pycocotools", "hotcoco"):
        raise RelayError(f"Engine {asked!r} is unknown; take auto, pycocotools or hotcoco.")
    if asked != "auto":
        return asked, "asked for"
    if importlib.util.find_spec("hotcoco") is None:
        return "pycocotools", "the reference; the extra 'fast' is not installed"
    ids = [annotation["id"] for annotation in ground_truth["annotations"]]
    if len(set(ids)) < len(ids) or not all(isinstance(i, int) and i >= 1 for i in ids):
        return "pycocotools", "the reference; annotation ids are not unique and positive"
    return "hotcoco", "installed, and ids are clean"


def _evaluate(
    engine: str, ground_truth: dict[str, Any], detections: Sequence[Detection]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M]."""
    if not ground_truth["annotations"] or not detections:
        engine = "pycocotools"  # the engines differ on empty lists; the reference decides
    with contextlib.redirect_stdout(io.StringIO()):
        load = _load_hotcoco if engine == "hotcoco" else _load_pycocotools
        evaluation = load(ground_truth, detections)
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _load_hotcoco(ground_truth: dict[str, Any], detections: Sequence[Detection]) -> Any:
    from hotcoco import COCO, COCOeval

    truth = COCO(ground_truth)
    return COCOeval(truth, truth.loadRes(list(detections)), "bbox")


def _load_pycocotools(ground_truth: dict[str, Any], detections: Sequence[Detection]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = _indexed(COCO(), ground_truth)
    if not detections:  # loadRes takes no empty list
        return COCOeval(truth, _indexed(COCO(), {**ground_truth, "annotations": []}), "bbox")
    # pycocotools writes into the detections that it is given.
    return COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox")


def _indexed(coco: Any, dataset: dict[str, Any]) -> Any:
    """A pycocotools COCO over a dataset in memory; its annotations are copied, not changed."""
    copies = [{"iscrowd": 0, **annotation} for annotation in dataset["annotations"]]
    coco.dataset = {**dataset, "annotations": copies}
    coco.createIndex()
    return coco


def _compare(
    name: str, ours: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]
) -> None:
    for what, mine, theirs in zip(("precision", "recall"), ours, reference, strict=True):
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=1e-12):
            raise RelayError(
                f"{name} and pycocotools differ in {what}; use the engine pycocotools and report"
                " this dataset."
            )
