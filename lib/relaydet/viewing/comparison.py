"""The pictures of a comparison: curves, and detections beside ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaydet.evaluation.on_dataset import OnDataset
from relaydet.evaluation.records import Detections, Truth
from relaydet.viewing.charts import precision_recall_chart
from relaydet.viewing.detections import SHEET_LEGEND, chosen_images, detection_sheet
from relaydet.viewing.pictures import Picture, png


def comparison_pictures(on: OnDataset) -> dict[str, Picture]:
    """All pictures of one dataset, by name.

    Args:
        on: what the detectors found there.
    """
    curves = {run.run: run.scores.curve() for run in on.runs}
    pictures = {
        "precision_recall": Picture(
            png(precision_recall_chart(curves, "Precision and recall at IoU 0.5")),
            "Precision over recall at IoU 0.5, averaged over the categories.",
        )
    }
    rows = _rows_shown(on)
    truths = _truths(on.truth, rows)
    for run in on.runs:
        sheet = detection_sheet(on.samples, truths, _found(on.truth, run.found, rows))
        pictures[f"detections_{run.run}"] = Picture(png(sheet), f"{run.run}: {SHEET_LEGEND}")
    return pictures


def _rows_shown(on: OnDataset) -> np.ndarray:
    """Rows of the images that a sheet of detections shows."""
    row_of = {image: row for row, image in enumerate(on.truth.image_ids)}
    ids = on.samples.image_ids_M[chosen_images(on.samples)].tolist()
    return np.array([row_of[image] for image in ids], np.int64)


def _truths(truth: Truth, rows: np.ndarray) -> list[dict[str, Any]]:
    """The annotations of some images, as COCO has them."""
    places = np.flatnonzero(np.isin(truth.image_N, rows)).tolist()
    return [
        {
            "image_id": truth.image_ids[truth.image_N[place]],
            "category_id": truth.category_ids[truth.category_N[place]],
            "bbox": truth.boxes_N4[place].tolist(),
            "iscrowd": int(truth.crowd_N[place]),
        }
        for place in places
    ]


def _found(truth: Truth, found: Detections, rows: np.ndarray) -> list[dict[str, Any]]:
    """The detections on some images, as COCO has them."""
    places = np.flatnonzero(np.isin(found.image_D, rows)).tolist()
    return [
        {
            "image_id": truth.image_ids[found.image_D[place]],
            "category_id": truth.category_ids[found.category_D[place]],
            "bbox": found.boxes_D4[place].tolist(),
            "score": float(found.score_D[place]),
        }
        for place in places
    ]
