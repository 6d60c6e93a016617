"""Everything that a comparison tells of one detector beside its scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from relaydet.evaluation.assignment import (
    Assignment,
    Calibration,
    OperatingPoint,
    SizeBin,
    assign,
    best_operating_point,
    calibration,
    operating_point,
    recall_by_size,
)
from relaydet.evaluation.error_analysis import (
    ErrorSplit,
    FalseAlarm,
    false_alarms,
    found_by,
    split_errors,
)
from relaydet.evaluation.records import Detections, Truth


@dataclass(frozen=True, eq=False)
class Analysis:
    """What one detector does on a dataset, and gets wrong."""

    assignment: Assignment
    best: OperatingPoint
    """The score with the highest F1: what the pictures drop is below it."""
    found_N: np.ndarray
    """Which annotations are found at that score; bool."""
    sizes: list[SizeBin]
    """Recall there, by relative size."""
    errors: ErrorSplit
    calibration: Calibration
    alarms: list[FalseAlarm]
    points: list[OperatingPoint]
    """Precision and recall at the scores 0.05, 0.1, ... 0.95: where to put a threshold."""


SCORES = tuple(round(0.05 * step, 2) for step in range(1, 20))


def analyse(truth: Truth, found: Detections) -> Analysis:
    """Look at a detector's detections from all sides.

    Args:
        truth: the dataset.
        found: the detections.
    """
    assignment = assign(truth, found)
    best = best_operating_point(truth, found, assignment)
    found_N = assignment.found_N(truth, found, best.score)
    return Analysis(
        assignment=assignment,
        best=best,
        found_N=found_N,
        sizes=recall_by_size(truth, found_N),
        errors=split_errors(truth, found, assignment),
        calibration=calibration(found, assignment),
        alarms=false_alarms(truth, found, assignment),
        points=[operating_point(truth, found, assignment, score) for score in SCORES],
    )


def as_facts(analysis: Analysis) -> dict[str, Any]:
    """An analysis as comparison.json has it."""
    return {
        "best_f1": _point(analysis.best),
        "operating_points": [_point(point) for point in analysis.points],
        "recall_by_size": [asdict(part) for part in analysis.sizes],
        "errors": analysis.errors.counts,
        "AP50_gained_by_mending": analysis.errors.gains,
        "calibration_error": analysis.calibration.error,
        "false_alarms": dict(
            Counter(
                "likely unlabelled" if alarm.likely_unlabelled else "other"
                for alarm in analysis.alarms
            )
        ),
    }


def _point(point: OperatingPoint) -> dict[str, Any]:
    shares = {"precision": point.precision, "recall": point.recall, "f1": point.f1}
    return {**asdict(point), **shares}


def pairs_found(truth: Truth, analyses: dict[str, Analysis]) -> list[dict[str, Any]]:
    """Of each pair of detectors, how many objects both, one or none of them found, by size."""
    names = list(analyses)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return [
        {
            "first": first,
            "second": second,
            **found_by(truth, analyses[first].found_N, analyses[second].found_N).counts,
        }
        for first, second in pairs
    ]
