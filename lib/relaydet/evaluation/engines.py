"""The evaluators: pycocotools, which is the reference, and faster ones that give the same arrays.

Each is fed from arrays and answers with an object that has pycocotools' `evaluate`, `accumulate`,
`eval` and `evalImgs`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relaydet.evaluation.records import Detections, Truth

REFERENCE = "pycocotools"
FAST = ("hotcoco", "faster-coco-eval")
"""By speed."""
ENGINES = (REFERENCE, *FAST)
TELLING = (REFERENCE, "hotcoco")
"""Those whose `evalImgs` say which detection was matched."""


def evaluated(
    engine: str,
    truth: Truth,
    found: Detections,
    areas: Sequence[tuple[str, float, float]] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Any:
    """An engine's evaluator after its match pass, not yet accumulated.

    Args:
        engine: one of ENGINES.
        truth: the dataset.
        found: the detections.
        areas: names and limits in pixels^2 of the area ranges; None takes COCO's four.
        thresholds: IoUs that make a match; None takes COCO's ten.
    """
    if not len(truth.ids) or not len(found):
        engine = REFERENCE  # the engines differ on empty lists; the reference decides
    if engine != REFERENCE:
        truth = _numbered(truth)
    load = {"hotcoco": _hotcoco, "faster-coco-eval": _faster}.get(engine, _reference)
    with _silence():
        evaluation = load(truth, found)
        if areas is not None:
            evaluation.params.areaRng = [[low, high] for _, low, high in areas]
            evaluation.params.areaRngLbl = [name for name, _, _ in areas]
        if thresholds is not None:
            evaluation.params.iouThrs = np.asarray(thresholds)
        evaluation.evaluate()
    return evaluation


def accumulated(evaluation: Any) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M] of an evaluator after its match pass."""
    with _silence():
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _silence() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(io.StringIO())


def _numbered(truth: Truth) -> Truth:
    """With ids 1, 2, ... in the same order: some engines keep them in floats."""
    return replace(
        truth,
        image_ids=list(range(1, len(truth.image_ids) + 1)),
        category_ids=list(range(1, len(truth.category_ids) + 1)),
        ids=list(range(1, len(truth.ids) + 1)),
    )


def _hotcoco(truth: Truth, found: Detections) -> Any:
    from hotcoco import COCO, COCOeval

    names = zip(truth.category_ids, truth.category_names, strict=True)
    coco = COCO.from_arrays(
        [{"id": name} for name in truth.image_ids],
        [{"id": name, "name": called} for name, called in names],
        truth.image_N + 1,
        truth.category_N + 1,
        truth.boxes_N4,
        area=truth.area_N,
        iscrowd=truth.crowd_N,
    )
    results_D7 = np.column_stack(
        [found.image_D + 1, found.boxes_D4, found.score_D, found.category_D + 1]
    )
    return COCOeval(coco, coco.loadRes(results_D7), "bbox")


def _faster(truth: Truth, found: Detections) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    coco = _indexed(COCO(), _dataset(truth))
    return COCOeval_faster(coco, coco.loadRes(_results(truth, found)), "bbox")


def _reference(truth: Truth, found: Detections) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = _dataset(truth)
    coco = _indexed(COCO(), dataset)
    if not len(found):  # loadRes takes no empty list
        return COCOeval(coco, _indexed(COCO(), {**dataset, "annotations": []}), "bbox")
    return COCOeval(coco, coco.loadRes(_results(truth, found)), "bbox")


def _indexed(coco: Any, dataset: dict[str, Any]) -> Any:
    """Read a dataset that is in memory."""
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _dataset(truth: Truth) -> dict[str, Any]:
    annotations = [
        {
            "id": name,
            "image_id": truth.image_ids[image],
            "category_id": truth.category_ids[category],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for name, image, category, box, area, crowd in zip(
            truth.ids,
            truth.image_N.tolist(),
            truth.category_N.tolist(),
            truth.boxes_N4.tolist(),
            truth.area_N.tolist(),
            truth.crowd_N.tolist(),
            strict=True,
        )
    ]
    names = zip(truth.category_ids, truth.category_names, strict=True)
    return {
        "images": [{"id": name} for name in truth.image_ids],
        "annotations": annotations,
        "categories": [{"id": name, "name": called} for name, called in names],
    }


def _results(truth: Truth, found: Detections) -> list[dict[str, Any]]:
    return [
        {
            "image_id": truth.image_ids[image],
            "category_id": truth.category_ids[category],
            "bbox": box,
            "score": score,
        }
        for image, category, box, score in zip(
            found.image_D.tolist(),
            found.category_D.tolist(),
            found.boxes_D4.tolist(),
            found.score_D.tolist(),
            strict=True,
        )
    ]
