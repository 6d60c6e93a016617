"""The pictures of a comparison: curves, kinds of errors, misses side by side, detections."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaydet.evaluation.assignment import relative_sizes
from relaydet.evaluation.on_dataset import OnDataset
from relaydet.evaluation.records import Detections, Truth
from relaydet.viewing.detections import SHEET_LEGEND, chosen_images, detection_sheet
from relaydet.viewing.evaluation_charts import (
    calibration_chart,
    errors_chart,
    precision_recall_chart,
    size_chart,
)
from relaydet.viewing.misses import ALARMS_LEGEND, MISSES_LEGEND, Side, alarms_sheet, misses_sheet
from relaydet.viewing.pictures import Picture, png

_MOST_ALARMS = 4
"""Detectors whose false alarms are drawn: the best ones."""


def comparison_pictures(on: OnDataset) -> dict[str, Picture]:
    """All pictures of one dataset, by name.

    Args:
        on: what the detectors found there.
    """
    names = [run.run for run in on.runs]
    pictures = {
        "precision_recall": Picture(
            png(
                precision_recall_chart(
                    {run.run: run.scores.curve() for run in on.runs},
                    "Precision and recall at IoU 0.5",
                )
            ),
            "Precision over recall at IoU 0.5, averaged over the categories.",
        ),
        "sizes": Picture(
            png(
                size_chart(
                    {name: on.analyses[name].sizes for name in names}, "Recall by relative size"
                )
            ),
            "Share of the objects found by relative size, at each run's best F1; faint where there"
            f" are fewer than five objects.{_without_size(on.truth)}",
        ),
        "errors": Picture(
            png(
                errors_chart(
                    {name: on.analyses[name].errors.gains for name in names}, "What errors cost"
                )
            ),
            "How much higher AP50 would be without each kind of error, each by itself.",
        ),
        "calibration": Picture(
            png(
                calibration_chart(
                    {name: on.analyses[name].calibration for name in names},
                    "Are scores probabilities?",
                )
            ),
            "Share of detections that are right, over their score; on the dotted line they agree.",
        ),
    }
    for first, second in pairs_shown(on):
        pictures[f"misses_{first}_{second}"] = misses_picture(on, first, second)
    rows = _rows_shown(on)
    truths = _truths(on.truth, rows)
    for run in on.runs:
        sheet = detection_sheet(on.samples, truths, _found(on.truth, run.found, rows))
        pictures[f"detections_{run.run}"] = Picture(png(sheet), f"{run.run}: {SHEET_LEGEND}")
    for name in _by_ap50(on)[:_MOST_ALARMS]:
        alarms = on.analyses[name].alarms
        likely = sum(alarm.likely_unlabelled for alarm in alarms)
        told = f"Of the first {len(alarms)}, {likely} are likely objects without a label."
        sheet = alarms_sheet(on.samples, on.truth, alarms)
        pictures[f"false_alarms_{name}"] = Picture(png(sheet), f"{name}: {ALARMS_LEGEND}{told}")
    return pictures


def _without_size(truth: Truth) -> str:
    """A sentence on the objects that have no relative size; empty without any."""
    _, known_N = relative_sizes(truth)
    lost = int((~known_N & ~truth.crowd_N).sum())
    return f" {lost} objects are left out: the size of their images is not told." if lost else ""


def pairs_shown(on: OnDataset) -> list[tuple[str, str]]:
    """The pairs whose misses are drawn: the next two in AP50, each beside the best."""
    best, *others = _by_ap50(on)
    return [(other, best) for other in others[:2]]


def misses_picture(on: OnDataset, first: str, second: str) -> Picture:
    """Small objects that only one of two detectors found.

    Args:
        on: what the detectors found.
        first: name of the one on the left.
        second: name of the one on the right.
    """
    left, right = _side(on, first), _side(on, second)
    scores = f"{left.min_score:.2f}, {right.min_score:.2f}"
    legend = MISSES_LEGEND.format(first=first, second=second, scores=scores)
    return Picture(png(misses_sheet(on.samples, on.truth, left, right)), legend)


def _side(on: OnDataset, name: str) -> Side:
    analysis = on.analyses[name]
    found = next(run.found for run in on.runs if run.run == name)
    return Side(name, found, analysis.found_N, analysis.best.score)


def _by_ap50(on: OnDataset) -> list[str]:
    return [run.run for run in sorted(on.runs, key=lambda run: -run.scores.metrics["AP50"])]


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
