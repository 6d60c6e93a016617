"""What a detector gets wrong, and what two detectors do differently; boxes are all that is needed.

The kinds of errors are those of TIDE (Bolya et al., TIDE: A General Toolbox for Identifying Object
Detection Errors, ECCV 2020): of several that would be mended to the same object the one with the
highest score is mended, the others are dropped. Unlike in its code (tidecv 1.0.1),
- what lies on a crowd counts for nothing: there it is sorted too, and mending it may gain AP;
- the best of several is chosen among those of a kind: there among badly placed ones and ones of
  another class together;
- matches and AP are COCO's: 100 detections count of each image and category, there of each image; a
  category without objects has no AP, there 0.

Shape suffixes: N annotations, D detections, F false positives, G annotations of one image, K
categories, 4 coordinates of a box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from relaydet.data.statistics import LARGE_AREA, MEDIUM_AREA
from relaydet.evaluation.assignment import IOU, Assignment
from relaydet.evaluation.records import Detections, Truth

BACKGROUND_IOU = 0.1
"""Below it, a detection has nothing to do with an object."""
KINDS = ("localisation", "class", "both", "duplicate", "background", "missed")
SIZES = ("small", "medium", "large")
SURE = 0.9
"""From this score on, a false positive beside all objects may well be an object without a label."""
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class ErrorSplit:
    """The false positives and the missed objects, by kind."""

    kind_D: np.ndarray
    """Position in KINDS of each false positive, -1 for all other detections; int64."""
    missed_N: np.ndarray
    """Whether no detection comes near an object; one that is only badly placed, or taken for
    another class, is no missed one. bool."""
    counts: dict[str, int]
    """Of each kind."""
    gains: dict[str, float]
    """How much AP50 would be higher if all errors of a kind were mended, each kind by itself."""


def split_errors(truth: Truth, found: Detections, assignment: Assignment) -> ErrorSplit:
    """Sort the errors by kind, and tell what each kind costs.

    A false positive is of the first of these kinds that it fits: localisation (IoU 0.1 to 0.5 with
    an object of its class), class (at least 0.5 with one of another class), duplicate (at least 0.5
    with an object that a better detection has found), background (at most 0.1 with all objects),
    both (badly placed and of another class).

    Args:
        truth: the dataset.
        found: the detections.
        assignment: which of them found what.
    """
    kind_D, target_D = np.full(len(found), -1), np.full(len(found), -1)
    for places, near in _near(truth, found, assignment.wrong_D):
        kind_D[places], target_D[places] = _kinds(near)
    explained_N = np.zeros(len(truth.ids), bool)
    explained_N[target_D[target_D >= 0]] = True
    seen_N = assignment.found_N(truth, found, -np.inf)
    missed_N = ~truth.crowd_N & ~seen_N & ~explained_N
    counts = {name: int((kind_D == kind).sum()) for kind, name in enumerate(KINDS)}
    counts["missed"] = int(missed_N.sum())
    gains = _gains(truth, found, assignment, kind_D, target_D, missed_N)
    return ErrorSplit(kind_D, missed_N, counts, gains)


@dataclass(frozen=True, eq=False)
class _Near:
    """The false positives of one image beside its objects."""

    rows_G: np.ndarray
    """Rows of its objects; crowds are not among them."""
    overlap_FG: np.ndarray
    """IoU of each with each."""
    same_FG: np.ndarray
    """Whether they are of one category."""


def _near(
    truth: Truth, found: Detections, wanted_D: np.ndarray
) -> Iterator[tuple[np.ndarray, _Near]]:
    """The wanted detections image by image, each with the image's objects."""
    objects = np.flatnonzero(~truth.crowd_N)
    objects = objects[np.argsort(truth.image_N[objects], kind="stable")]
    starts = np.searchsorted(truth.image_N[objects], np.arange(len(truth.image_ids) + 1))
    places = np.flatnonzero(wanted_D)
    places = places[np.argsort(found.image_D[places], kind="stable")]
    for mine in np.split(places, np.flatnonzero(np.diff(found.image_D[places])) + 1):
        if len(mine):
            image = found.image_D[mine[0]]
            rows_G = objects[starts[image] : starts[image + 1]]
            overlap_FG = overlaps(found.boxes_D4[mine], truth.boxes_N4[rows_G])
            same_FG = found.category_D[mine][:, None] == truth.category_N[rows_G]
            yield mine, _Near(rows_G, overlap_FG, same_FG)


def _kinds(near: _Near) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each false positive of an image, and the row of the object that explains it."""
    count = len(near.overlap_FG)
    if not len(near.rows_G):
        return np.full(count, KINDS.index("background")), np.full(count, -1)
    own_FG = np.where(near.same_FG, near.overlap_FG, 0.0)
    other_FG = np.where(near.same_FG, 0.0, near.overlap_FG)
    own_F, other_F = own_FG.max(axis=1), other_FG.max(axis=1)
    rules = {
        "localisation": (own_F >= BACKGROUND_IOU) & (own_F < IOU),
        "class": other_F >= IOU,
        "duplicate": own_F >= IOU,
        "background": np.maximum(own_F, other_F) <= BACKGROUND_IOU,
    }
    kind_F = np.select(
        list(rules.values()), [KINDS.index(name) for name in rules], KINDS.index("both")
    )
    target_F = np.full(count, -1)
    for name, of_FG in (("localisation", own_FG), ("class", other_FG)):
        mine = kind_F == KINDS.index(name)
        target_F[mine] = near.rows_G[of_FG.argmax(axis=1)[mine]]
    return kind_F, target_F


def overlaps(boxes_F4: np.ndarray, boxes_G4: np.ndarray) -> np.ndarray:
    """IoU of each of the first boxes [x, y, width, height] with each of the second: [F, G]."""
    low_FG2 = np.maximum(boxes_F4[:, None, :2], boxes_G4[None, :, :2])
    high_FG2 = np.minimum(
        (boxes_F4[:, :2] + boxes_F4[:, 2:])[:, None], (boxes_G4[:, :2] + boxes_G4[:, 2:])[None]
    )
    inside_FG = (high_FG2 - low_FG2).clip(min=0).prod(axis=2)
    areas_FG = boxes_F4[:, 2:].prod(axis=1)[:, None] + boxes_G4[:, 2:].prod(axis=1)[None]
    union_FG = areas_FG - inside_FG
    return np.divide(inside_FG, union_FG, out=np.zeros_like(inside_FG), where=union_FG > 0)


def _gains(
    truth: Truth,
    found: Detections,
    assignment: Assignment,
    kind_D: np.ndarray,
    target_D: np.ndarray,
    missed_N: np.ndarray,
) -> dict[str, float]:
    """AP50 with all errors of one kind mended, less AP50 as it is."""
    right_D, counts_D = assignment.right_D, assignment.counts_D
    plain = _ap50(truth, found, right_D, counts_D, found.category_D)
    seen_N = assignment.found_N(truth, found, -np.inf)
    gains = {}
    for kind, name in enumerate(KINDS):
        mine_D = kind_D == kind
        if name == "missed":
            mended = _ap50(truth, found, right_D, counts_D, found.category_D, ~missed_N)
        else:
            lifted = _lifted(found, mine_D, target_D, seen_N)
            category_D = found.category_D.copy()
            category_D[lifted] = truth.category_N[target_D[lifted]]
            right_too_D, kept_D = right_D.copy(), counts_D & ~mine_D
            right_too_D[lifted] = kept_D[lifted] = True
            mended = _ap50(truth, found, right_too_D, kept_D, category_D)
        gains[name] = max(0.0, mended - plain)
    return gains


def _lifted(
    found: Detections, mine_D: np.ndarray, target_D: np.ndarray, seen_N: np.ndarray
) -> np.ndarray:
    """Places of the errors that would be right if mended: one for each object not found yet."""
    places = np.flatnonzero(mine_D & (target_D >= 0))
    places = places[~seen_N[target_D[places]]]
    places = places[np.argsort(-found.score_D[places], kind="stable")]
    _, first = np.unique(target_D[places], return_index=True)
    return places[first]


def _ap50(
    truth: Truth,
    found: Detections,
    right_D: np.ndarray,
    counts_D: np.ndarray,
    category_D: np.ndarray,
    wanted_N: np.ndarray | None = None,
) -> float:
    """AP at IoU 0.5 as COCO defines it, of detections that are known to be right or wrong."""
    objects_N = ~truth.crowd_N if wanted_N is None else ~truth.crowd_N & wanted_N
    objects_K = np.bincount(truth.category_N[objects_N], minlength=len(truth.category_ids))
    # By falling score, then image, as pycocotools takes them.
    order_D = np.lexsort((found.image_D, -found.score_D))
    values = []
    for k in np.flatnonzero(objects_K):
        mine = order_D[(counts_D & (category_D == k))[order_D]]
        right = np.cumsum(right_D[mine])
        precision = right / (np.arange(1, len(mine) + 1) + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        place_R = np.searchsorted(right / objects_K[k], _RECALLS, side="left")
        values.append(np.append(best, 0.0)[place_R.clip(max=len(best))].mean())
    return float(np.mean(values)) if values else 0.0


@dataclass(frozen=True, eq=False)
class FoundBy:
    """Which of two detectors found each object."""

    first_N: np.ndarray
    """Found by the first; bool. Crowds count as found by neither and are in no count."""
    second_N: np.ndarray
    counts: dict[str, dict[str, int]]
    """By size (all, small, medium, large, as COCO parts them by area): both, first, second (by that
    one alone) and neither."""


def found_by(truth: Truth, first_N: np.ndarray, second_N: np.ndarray) -> FoundBy:
    """Set side by side what two detectors found.

    Args:
        truth: the dataset.
        first_N: which annotations the first found; of `Assignment.found_N`.
        second_N: which the second found.
    """
    size_N = np.searchsorted([MEDIUM_AREA, LARGE_AREA], truth.area_N, side="right")
    counts = {}
    for place, name in enumerate(("all", *SIZES), start=-1):
        here_N = ~truth.crowd_N if name == "all" else ~truth.crowd_N & (size_N == place)
        counts[name] = {
            "both": int((here_N & first_N & second_N).sum()),
            "first": int((here_N & first_N & ~second_N).sum()),
            "second": int((here_N & ~first_N & second_N).sum()),
            "neither": int((here_N & ~first_N & ~second_N).sum()),
        }
    return FoundBy(first_N & ~truth.crowd_N, second_N & ~truth.crowd_N, counts)


@dataclass(frozen=True)
class FalseAlarm:
    """A false positive."""

    place: int
    """Which detection it is."""
    image: int
    """Row of its image."""
    box: tuple[float, float, float, float]
    score: float
    category: int
    """Position of its category."""
    overlap: float
    """IoU with the object that it overlaps most, of any category."""
    likely_unlabelled: bool
    """Probably an object that nobody has labelled: the detector is sure, no labelled object or
    crowd is near, and it is as large as labelled objects of its category are."""


def false_alarms(
    truth: Truth, found: Detections, assignment: Assignment, count: int = 50
) -> list[FalseAlarm]:
    """The false positives with the highest scores, by falling score.

    Args:
        truth: the dataset.
        found: the detections.
        assignment: which of them found what.
        count: how many at most.
    """
    wrong = np.flatnonzero(assignment.wrong_D)
    top = wrong[np.argsort(-found.score_D[wrong], kind="stable")][:count]
    wanted_D, overlap_D = np.zeros(len(found), bool), np.zeros(len(found))
    wanted_D[top] = True
    for places, near in _near(truth, found, wanted_D):
        if len(near.rows_G):
            overlap_D[places] = near.overlap_FG.max(axis=1)
    side_D = np.sqrt(found.boxes_D4[:, 2:].prod(axis=1))
    low_K, high_K = _usual_sides(truth)
    return [
        FalseAlarm(
            place=int(place),
            image=int(found.image_D[place]),
            box=tuple(found.boxes_D4[place].tolist()),
            score=float(found.score_D[place]),
            category=(k := int(found.category_D[place])),
            overlap=float(overlap_D[place]),
            likely_unlabelled=bool(
                found.score_D[place] >= SURE
                and overlap_D[place] < BACKGROUND_IOU
                and _share_on_crowds(truth, found, place) < BACKGROUND_IOU
                and low_K[k] <= side_D[place] <= high_K[k]
            ),
        )
        for place in top
    ]


def _share_on_crowds(truth: Truth, found: Detections, place: int) -> float:
    """How much of a detection lies on one crowd region, of any category, at most."""
    crowds_G4 = truth.boxes_N4[truth.crowd_N & (truth.image_N == found.image_D[place])]
    if not len(crowds_G4):
        return 0.0
    return float(mask.iou(found.boxes_D4[[place]], crowds_G4, [1] * len(crowds_G4)).max())


def _usual_sides(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest sqrt(area) of the objects of each category; none fits an empty."""
    count = len(truth.category_ids)
    low_K, high_K = np.full(count, np.inf), np.zeros(count)
    objects_N = ~truth.crowd_N
    side_N = np.sqrt(truth.boxes_N4[objects_N, 2:].prod(axis=1))
    np.minimum.at(low_K, truth.category_N[objects_N], side_N)
    np.maximum.at(high_K, truth.category_N[objects_N], side_N)
    return low_K, high_K
