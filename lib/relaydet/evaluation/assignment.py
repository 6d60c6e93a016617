"""Which detection found which object, at IoU 0.5 as COCO matches them.

Detections are matched from the highest score down, and a match depends on higher scores alone. So
one assignment serves every score threshold: leaving out what scores less changes nothing above.

Shape suffixes: N annotations, D detections, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from relaydet.evaluation.engines import REFERENCE, TELLING, evaluated
from relaydet.evaluation.records import Detections, Truth
from relaydet.evaluation.score import choose_engine

IOU = 0.5
RELATIVE_SIZES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Edges of the bins of sqrt(box area / image area)."""
BINS = 10


@dataclass(frozen=True, eq=False)
class Assignment:
    """A detector's detections against the objects of a dataset."""

    object_D: np.ndarray
    """Row of the annotation that each detection found, -1 where it found none; int64."""
    counts_D: np.ndarray
    """Whether a detection is right or wrong; not where it lies on a crowd, or is beyond the 100 of
    an image and category."""

    @property
    def right_D(self) -> np.ndarray:
        """Detections that found an object."""
        return self.counts_D & (self.object_D >= 0)

    @property
    def wrong_D(self) -> np.ndarray:
        """Detections that found none."""
        return self.counts_D & (self.object_D < 0)

    def found_N(self, truth: Truth, found: Detections, min_score: float) -> np.ndarray:
        """Whether each annotation was found by a detection of at least that score; bool."""
        found_N = np.zeros(len(truth.ids), bool)
        found_N[self.object_D[self.right_D & (found.score_D >= min_score)]] = True
        return found_N


def assign(truth: Truth, found: Detections, engine: str = "auto") -> Assignment:
    """Match detections to objects of their category at IoU 0.5.

    Args:
        truth: the dataset.
        found: the detections.
        engine: as `score` takes it.
    """
    name, _ = choose_engine(truth, engine)
    name = name if name in TELLING else REFERENCE
    object_D = np.full(len(found), -1)
    counts_D = np.zeros(len(found), bool)
    if not len(found):
        return Assignment(object_D, counts_D)
    evaluation = evaluated(name, truth, found, [("all", 0.0, 1e10)], [IOU])
    row_of = {annotation: row for row, annotation in enumerate(evaluation.cocoGt.getAnnIds())}
    for entry in evaluation.evalImgs:
        if entry is None or not len(entry["dtIds"]):
            continue
        places = np.asarray(entry["dtIds"], np.int64) - 1  # numbered as they were given
        ignored = np.asarray(entry["dtIgnore"], bool)[0]
        matched = np.asarray(entry["dtMatches"], np.float64)[0].tolist()
        object_D[places] = [row_of[int(a)] if a else -1 for a in matched]
        counts_D[places] = ~ignored
    return Assignment(np.where(counts_D, object_D, -1), counts_D)


@dataclass(frozen=True)
class SizeBin:
    """Objects of about one relative size."""

    low: float
    high: float
    objects: int
    found: int

    @property
    def recall(self) -> float:
        """Share that was found; NaN without objects."""
        return self.found / self.objects if self.objects else float("nan")


def recall_by_size(
    truth: Truth, found_N: np.ndarray, edges: Sequence[float] = RELATIVE_SIZES
) -> list[SizeBin]:
    """Recall by relative size sqrt(box area / image area).

    Crowds, and objects of images whose size is not told, are left out.

    Args:
        truth: the dataset.
        found_N: which annotations were found.
        edges: of the bins, ascending; what is beyond the last one is in the last bin.
    """
    size_N, known_N = relative_sizes(truth)
    bin_N = np.clip(np.digitize(size_N, edges) - 1, 0, len(edges) - 2)
    bins = []
    for place, (low, high) in enumerate(pairwise(edges)):
        mine_N = known_N & (bin_N == place)
        bins.append(SizeBin(low, high, int(mine_N.sum()), int((mine_N & found_N).sum())))
    return bins


def relative_sizes(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """sqrt(box area / image area) of each annotation, and whether it is an object of known size."""
    area_N = truth.sides_M2.prod(axis=1)[truth.image_N]
    known_N = (area_N > 0) & ~truth.crowd_N
    box_N = truth.boxes_N4[:, 2:].prod(axis=1)
    return np.sqrt(np.divide(box_N, area_N, out=np.zeros(len(area_N)), where=area_N > 0)), known_N


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector does when detections below a score are dropped."""

    score: float
    right: int
    wrong: int
    objects: int

    @property
    def precision(self) -> float:
        """Share of the detections that are right; 0 without any."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the objects that are found; 0 without any."""
        return self.right / max(1, self.objects)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / max(1, self.right + self.wrong + self.objects)


def operating_point(
    truth: Truth, found: Detections, assignment: Assignment, score: float
) -> OperatingPoint:
    """Precision and recall at a chosen score."""
    shown_D = found.score_D >= score
    right = int((assignment.right_D & shown_D).sum())
    wrong = int((assignment.wrong_D & shown_D).sum())
    return OperatingPoint(score, right, wrong, int((~truth.crowd_N).sum()))


def best_operating_point(truth: Truth, found: Detections, assignment: Assignment) -> OperatingPoint:
    """The score with the highest F1; the highest such score of several."""
    scores_T = np.unique(found.score_D[assignment.counts_D])[::-1]
    if not len(scores_T):
        return operating_point(truth, found, assignment, 1.0)
    ascending = np.sort(found.score_D[assignment.right_D])
    right_T = len(ascending) - np.searchsorted(ascending, scores_T, side="left")
    ascending = np.sort(found.score_D[assignment.counts_D])
    shown_T = len(ascending) - np.searchsorted(ascending, scores_T, side="left")
    f1_T = 2 * right_T / (shown_T + int((~truth.crowd_N).sum())).clip(min=1)
    return operating_point(truth, found, assignment, float(scores_T[np.argmax(f1_T)]))


@dataclass(frozen=True)
class Calibration:
    """Whether a score of 0.8 means that 80 of 100 are right."""

    mean_score_B: tuple[float, ...]
    """Of the detections in each bin of scores from 0 to 1; NaN in an empty one."""
    share_right_B: tuple[float, ...]
    count_B: tuple[int, ...]
    error: float
    """Expected calibration error: the mean distance of the two, by detections (Guo et al., On
    Calibration of Modern Neural Networks, 2017)."""


def calibration(found: Detections, assignment: Assignment, bins: int = BINS) -> Calibration:
    """Scores against the share that is right, in bins of equal width."""
    counts_D = assignment.counts_D
    score_D, right_D = found.score_D[counts_D], assignment.right_D[counts_D]
    bin_D = np.clip((score_D * bins).astype(np.int64), 0, bins - 1)
    count_B = np.bincount(bin_D, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_B = np.bincount(bin_D, score_D, bins) / count_B
        share_B = np.bincount(bin_D, right_D, bins) / count_B
    apart_B = np.abs(mean_B - share_B)[count_B > 0]
    weight_B = count_B[count_B > 0]
    error = float(apart_B @ weight_B / weight_B.sum()) if len(weight_B) else 0.0
    return Calibration(
        tuple(mean_B.tolist()), tuple(share_B.tolist()), tuple(count_B.tolist()), error
    )
