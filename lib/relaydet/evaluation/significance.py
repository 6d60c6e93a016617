"""Is one detector better than another, or was it luck? A paired bootstrap over images.

Images are drawn with replacement as often as there are, the same draw for every detector, and each
draw is scored as COCO scores it. An image that is drawn twice weighs twice: nothing needs to be
matched again, and with all weights 1 the numbers are pycocotools' own. (Detections of equal score
on one image are counted one after the other; in a dataset that has the image twice they would
alternate.) Intervals are percentiles of
the draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

Shape suffixes: M images, D detections and P true positives of one category by falling score,
T IoU thresholds, R recall thresholds, K categories, B draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from relaydet.evaluation.engines import REFERENCE, TELLING, evaluated
from relaydet.evaluation.records import Detections, Truth
from relaydet.evaluation.score import choose_engine

DRAWS = 1000
CONFIDENCE = 0.95
MEASURES = {
    "AP": ("all", "precision", 10),
    "AP50": ("all", "precision", 1),
    "AR100": ("all", "recall", 10),
    "APs": ("small", "precision", 10),
    "ARs": ("small", "recall", 10),
}
"""Area range, what of it, and how many of the IoU thresholds, from 0.5 on, of each measure."""
_AREAS = {"all": ("all", 0.0, 1e10), "small": ("small", 0.0, 32.0**2)}


@dataclass(frozen=True)
class Interval:
    """A number and the interval that holds the true one with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference:
    """One detector less another, on the same draws."""

    first: str
    second: str
    """The difference is what the second has more than the first."""
    measure: str
    delta: Interval
    verdict: str
    """Of the second: better, worse, or cannot tell."""


@dataclass(frozen=True)
class Significance:
    """Intervals of each detector, and of each pair of them."""

    intervals: dict[str, dict[str, Interval]]
    """By detector and measure; measures without ground truth are absent."""
    differences: list[Difference]
    draws: int
    images: int


def bootstrap(
    truth: Truth,
    detectors: Mapping[str, Detections],
    measures: Sequence[str] = tuple(MEASURES),
    draws: int = DRAWS,
    seed: int = 0,
    engine: str = "auto",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Significance:
    """Intervals of what detectors reach on a dataset, and of their differences.

    They tell how much the numbers would move on other images of the same kind. That training again
    with another seed moves them as well, they do not know.

    Args:
        truth: the dataset; its images count as drawn independently of each other.
        detectors: what each found, by name.
        measures: of MEASURES.
        draws: how many; a thousand give an interval's ends to about a tenth of its width.
        seed: of the draws.
        engine: as `score` takes it; it matches detections to objects, once.
        progress: wraps the iteration over the draws, to show it.
    """
    name, _ = choose_engine(truth, engine)
    wanted = {measure: MEASURES[measure] for measure in measures}
    areas = list(dict.fromkeys(area for area, _, _ in wanted.values()))
    matched = {
        who: {area: match_once(name, truth, found, area) for area in areas}
        for who, found in detectors.items()
    }
    images = len(truth.image_ids)
    values = {who: _measure(m, wanted, np.ones(images)) for who, m in matched.items()}
    there = [measure for measure in wanted if any(v[measure] > -1 for v in values.values())]
    wanted = {measure: wanted[measure] for measure in there}
    generator = np.random.default_rng(seed)
    drawn = {who: {measure: np.empty(draws) for measure in there} for who in matched}
    for draw in progress(range(draws if there else 0)):
        rows = generator.integers(0, images, images)
        weight_M = np.bincount(rows, minlength=images).astype(np.float64)
        for who, found in matched.items():
            for measure, value in _measure(found, wanted, weight_M).items():
                drawn[who][measure][draw] = value
    return Significance(
        intervals={
            who: {m: _interval(values[who][m], of[m][of[m] > -1]) for m in there}
            for who, of in drawn.items()
        },
        differences=[
            _difference(first, second, measure, values, drawn)
            for first, second in combinations(matched, 2)
            for measure in there
        ],
        draws=draws,
        images=images,
    )


def _difference(
    first: str,
    second: str,
    measure: str,
    values: Mapping[str, Mapping[str, float]],
    drawn: Mapping[str, Mapping[str, np.ndarray]],
) -> Difference:
    value = values[second][measure] - values[first][measure]
    of_first, of_second = drawn[first][measure], drawn[second][measure]
    there = of_first > -1  # whether a draw has such an object is the same for all detectors
    delta = _interval(value, (of_second - of_first)[there])
    verdict = "better" if delta.low > 0 else "worse" if delta.high < 0 else "cannot tell"
    return Difference(first, second, measure, delta, verdict)


def _interval(value: float, drawn_B: np.ndarray) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn_B, [outside, 1 - outside]) if len(drawn_B) else (value, value)
    return Interval(float(value), float(low), float(high))


@dataclass(frozen=True, eq=False)
class _Threshold:
    """The true positives of one category at one IoU threshold."""

    image_P: np.ndarray
    """Row of the image of each."""
    place_P: np.ndarray
    """How many detections have a higher score."""
    ignored_I: np.ndarray
    """Rows of the images of the detections that count for nothing, by falling score."""
    ignored_before_P: np.ndarray
    """How many of those are before each true positive."""


@dataclass(frozen=True, eq=False)
class _Category:
    positives_M: np.ndarray
    """Objects to be found on each image."""
    image_D: np.ndarray
    thresholds: list[_Threshold]


@dataclass(frozen=True, eq=False)
class Matched:
    """What an engine's match pass found, so that any weights of the images can be scored."""

    categories: list[_Category]
    recalls_R: np.ndarray

    def arrays(self, weight_M: np.ndarray, thresholds: int) -> tuple[np.ndarray, np.ndarray]:
        """Precision [T, R, K] and recall [T, K], as pycocotools accumulates them.

        Args:
            weight_M: how often each image counts; float64 whole numbers.
            thresholds: how many IoU thresholds, from the lowest on.
        """
        shape = (thresholds, len(self.recalls_R), len(self.categories))
        precision_TRK, recall_TK = np.full(shape, -1.0), np.full((thresholds, shape[2]), -1.0)
        for k, category in enumerate(self.categories):
            if positives := float(category.positives_M @ weight_M):
                precision_TRK[:, :, k], recall_TK[:, k] = self._of(
                    category, positives, weight_M, thresholds
                )
        return precision_TRK, recall_TK

    def _of(
        self, category: _Category, positives: float, weight_M: np.ndarray, thresholds: int
    ) -> tuple[np.ndarray, np.ndarray]:
        precision_TR, recall_T = np.zeros((thresholds, len(self.recalls_R))), np.zeros(thresholds)
        counted_D = np.cumsum(weight_M[category.image_D])
        for t, at in enumerate(category.thresholds[:thresholds]):
            if not len(at.image_P):
                continue
            right_P = np.cumsum(weight_M[at.image_P])
            all_P = counted_D[at.place_P]
            if len(at.ignored_I):
                ignored = np.concatenate([[0.0], np.cumsum(weight_M[at.ignored_I])])
                all_P = all_P - ignored[at.ignored_before_P]
            recall_P = right_P / positives
            # A detection with weight 0 is before the first one that counts: 0 of 0.
            precision_P = right_P / (all_P + np.spacing(1))
            best_P = np.maximum.accumulate(precision_P[::-1])[::-1]
            place_R = np.searchsorted(recall_P, self.recalls_R, side="left")
            reached = place_R < len(best_P)
            precision_TR[t, reached] = best_P[place_R[reached]]
            recall_T[t] = recall_P[-1]
        return precision_TR, recall_T


def match_once(engine: str, truth: Truth, found: Detections, area: str = "all") -> Matched:
    """Match detections to objects with an engine, and keep what scoring needs.

    Args:
        engine: one that `choose_engine` names. faster-coco-eval does not tell what it matched:
            pycocotools does it in its place.
        truth: the dataset.
        found: the detections.
        area: all or small.
    """
    telling = engine if engine in TELLING else REFERENCE
    evaluation = evaluated(telling, truth, found, [_AREAS[area]])
    rows = {image: row for row, image in enumerate(evaluation.params.imgIds)}
    places = {category: k for k, category in enumerate(evaluation.params.catIds)}
    per_category: list[list[tuple[int, Any]]] = [[] for _ in places]
    for entry in evaluation.evalImgs:
        if entry is not None:
            row = rows[entry["image_id"]]
            per_category[places[entry["category_id"]]].append((row, entry))
    images = len(truth.image_ids)
    categories = [_category(entries, images) for entries in per_category]
    return Matched(categories, np.asarray(evaluation.params.recThrs, np.float64))


def _category(entries: Sequence[tuple[int, Any]], images: int) -> _Category:
    """Everything of one category, in the order in which pycocotools accumulates it."""
    positives_M = np.zeros(images)
    entries = sorted(entries, key=lambda pair: pair[0])
    for row, entry in entries:
        positives_M[row] = np.count_nonzero(np.asarray(entry["gtIgnore"], bool) == 0)
    if not entries:
        return _Category(positives_M, np.zeros(0, np.int64), [])
    counts = [len(entry["dtScores"]) for _, entry in entries]
    image_D = np.repeat([row for row, _ in entries], counts)
    score_D = np.concatenate([np.asarray(e["dtScores"], np.float64) for _, e in entries])
    order_D = np.argsort(-score_D, kind="mergesort")
    matched_TD = _joined(entries, "dtMatches", counts)[:, order_D] != 0
    ignored_TD = _joined(entries, "dtIgnore", counts)[:, order_D] != 0
    image_D = image_D[order_D]
    thresholds = []
    for matched_D, ignored_D in zip(matched_TD, ignored_TD, strict=True):
        right = np.flatnonzero(matched_D & ~ignored_D)
        ignored = np.flatnonzero(ignored_D)
        thresholds.append(
            _Threshold(image_D[right], right, image_D[ignored], np.searchsorted(ignored, right))
        )
    return _Category(positives_M, image_D, thresholds)


def _joined(entries: Sequence[tuple[int, Any]], key: str, counts: Sequence[int]) -> np.ndarray:
    """[T, D] of all images; those of an image without detections have no shape to speak of."""
    parts = [
        np.asarray(entry[key], np.float64)
        for (_, entry), count in zip(entries, counts, strict=True)
        if count
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((10, 0))


def _measure(
    matched: Mapping[str, Matched],
    wanted: Mapping[str, tuple[str, str, int]],
    weight_M: np.ndarray,
) -> dict[str, float]:
    """Each measure of one detector; -1 where the draw has no such object."""
    arrays = {}
    for area in dict.fromkeys(area for area, _, _ in wanted.values()):
        most = max(count for where, _, count in wanted.values() if where == area)
        precision_TRK, recall_TK = matched[area].arrays(weight_M, most)
        arrays[area] = {"precision": precision_TRK, "recall": recall_TK}
    values = {}
    for measure, (area, what, count) in wanted.items():
        part = arrays[area][what][:count]
        valid = part[part > -1]
        values[measure] = float(np.mean(valid)) if valid.size else -1.0
    return values
